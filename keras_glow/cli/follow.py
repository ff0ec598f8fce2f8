"""What one sees of a run while it trains: a line, a curve, pictures.

Everything is told from `history.csv`, so a resumed run goes on where it was.
"""

import csv
import datetime
import importlib.util
import itertools
import math
import pathlib
import shutil
import time

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_glow.callbacks import HistoryFile, SampleGrid, warned
from keras_glow.files.atomic import atomic_file
from keras_glow.images.progress import ProgressLine

# What a likelihood is called: of integers, of floats.
PER_DIM = "bits_per_dim", "nats_per_dim"
COLUMNS = 8  # samples in a row
PICTURE = 128  # pixels that a sample is enlarged to, about
# Of the curve, which is drawn without a package for plots:
SIZE = 900, 520
LEFT, TOP, RIGHT, BOTTOM = 70, 40, 880, 470  # of the axes
COLORS = "#1f77b4", "#d95f02"
GREY, BLACK = "#d0d0d0", "#202020"


def read_history(file):
    """Returns the rows of a `history.csv` as dicts of floats, nan for none."""

    def number(text):
        try:
            return float(text)
        except (TypeError, ValueError):  # "NA", or a row that was cut off
            return math.nan

    if not pathlib.Path(file).exists():
        return []
    with open(file, newline="") as lines:
        return [
            {name: number(text) for name, text in row.items()}
            for row in csv.DictReader(lines)
        ]


def names_of(rows):
    """Returns the names of the likelihood, in training and in validation."""
    name = next((n for n in PER_DIM if rows and n in rows[-1]), PER_DIM[0])
    return name, f"val_{name}"


def unit_of(name):
    """Returns what follows a number of that name."""
    return name.replace("_per_", "/")


def best_epoch(rows):
    """Returns the first row with the fewest bits/dim on validation images."""
    _, name = names_of(rows)
    rows = [row for row in rows if math.isfinite(row.get(name, math.nan))]
    return min(rows, key=lambda row: row[name], default=None)


def summary(history, seconds):
    """Returns a sentence on a run that has ended, after so many seconds."""
    rows = read_history(history)
    line = f"{len(rows)} epochs"
    if rows:
        name, validation = names_of(rows)
        value = rows[-1].get(name, math.nan)
        line += f", {value:.3f} {unit_of(name)}"
    best = best_epoch(rows)
    if best:
        line += (
            f", {rows[-1][validation]:.3f} on validation images (best: "
            f"{best[validation]:.3f} in epoch {best['epoch'] + 1:.0f}, in "
            "best.keras)"
        )
    return f"{line}; this took {duration(seconds)}"


def written_each_epoch(folder, size, context=None):
    """Returns the callbacks that write what one looks at in a run."""
    scale = max(1, PICTURE // max(size))
    if context is not None:
        context = np.resize(context, (COLUMNS, *context.shape[1:]))
    return [
        HistoryFile(folder / "history.csv", append=True),
        SampleGrid(
            folder / "samples", 1, COLUMNS, scale=scale, context=context
        ),
        RunPictures(folder),
    ]


class ProgressOfTraining(keras.callbacks.Callback):
    """Shows one line that is written anew, and keeps a line for each epoch.

    Set `seconds` to the time that a run by time has left, and the line shows
    the share that is over.
    """

    async_safe = True  # Keras need not wait for the batch before it calls.

    def __init__(self, epochs, images, batch_size):
        super().__init__()
        self.epochs, self.batch_size = epochs, batch_size
        self.seconds = None
        self.steps = math.ceil(images / batch_size)
        self.line = ProgressLine()
        self.start = time.monotonic()
        self.compiled = None  # when the first batch was over
        self.batches = 0  # since then
        self.rate = math.nan  # images in a second

    def on_epoch_begin(self, epoch, logs=None):
        self.number = epoch
        self.epoch_start, self.epoch_batches = time.monotonic(), 0
        # A resumed epoch has fewer batches left than an epoch has.
        self.first = self.steps - (self.params["steps"] or self.steps)

    def on_train_batch_end(self, batch, logs=None):
        now = time.monotonic()
        if self.compiled is None:
            self.compiled = self.epoch_start = now
            return
        self.batches += 1
        self.epoch_batches += 1
        taken = max(now - self.epoch_start, 1e-9)
        self.rate = self.epoch_batches * self.batch_size / taken
        if self.line.due():  # reading the logs waits for the batch
            done = self.first + batch + 1
            self.line.show(f"{self._text(logs, done)} {done / self.steps:4.0%}")

    def on_epoch_end(self, epoch, logs=None):
        self.line.print(self._text(logs, self.steps))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # What ends the run stands in a line of its own.
        self.line.print()

    def _text(self, logs, done):
        rate = "" if math.isnan(self.rate) else f"{self.rate:.0f} images/s, "
        of = f"/{self.epochs}" if self.seconds is None else ""
        return (
            f"epoch {self.number + 1}{of}: {_figures(logs)}{rate}"
            f"{self._left(done)}"
        )

    def _left(self, done):
        """Returns how much longer the run takes, in words."""
        now = time.monotonic()
        if self.seconds is not None:
            share = (now - self.start) / max(self.seconds, 1e-9)
            return f"{min(share, 1):.0%} of the time"
        left = (self.epochs - self.number) * self.steps - done
        if not self.batches:
            return f"{left} steps left"
        # Validation and pictures take their share of it.
        pace = (now - self.compiled) / self.batches
        return f"{duration(left * pace)} left"


class RunPictures(keras.callbacks.Callback):
    """Keeps `curve.png`, `samples/latest.png` and `best.keras` up to date.

    `best.keras` has the weights, averaged if there are averages, of the epoch
    with the fewest bits/dim on validation images. It comes after the callbacks
    that write `history.csv` and the samples.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        rows = read_history(self.folder / "history.csv")
        names = names_of(rows)
        curves = {
            kind: [row.get(name, math.nan) for row in rows]
            for kind, name in zip(
                ("training", "validation"), names, strict=True
            )
        }
        curve = self.folder / "curve.png"
        with warned(curve), atomic_file(curve) as partial:
            draw_curve(curves, partial, unit_of(names[0]))
        newest = self.folder / "samples" / f"epoch_{epoch + 1:04d}.png"
        latest = newest.with_name("latest.png")
        if newest.exists():
            with warned(latest), atomic_file(latest) as partial:
                shutil.copyfile(newest, partial)
        best = best_epoch(rows)
        if best and best["epoch"] == epoch:
            file = self.folder / "best.keras"
            with warned(file):
                self.model.save(file)


def draw_curve(curves, path, unit="bits/dim"):
    """Draws bits/dim, or what the unit says, over the epochs.

    `curves` has a list of them for each name; nan leaves a gap.
    """
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    known = list(filter(math.isfinite, itertools.chain(*curves.values())))
    ticks = _ticks(min(known), max(known)) if known else [0.0, 1.0]
    epochs = max(map(len, curves.values()), default=0)

    def place(epoch, value):
        x = LEFT + (RIGHT - LEFT) * (epoch - 1) / max(epochs - 1, 1)
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return x, BOTTOM - (BOTTOM - TOP) * share

    for tick in ticks:
        y = place(1, tick)[1]
        draw.line([(LEFT, y), (RIGHT, y)], GREY)
        draw.text((LEFT - 8, y), f"{tick:.4g}", BLACK, font, anchor="rm")
    for epoch in sorted({1, *range(0, epochs + 1, max(1, epochs // 8))} - {0}):
        x = place(epoch, ticks[0])[0]
        draw.text((x, BOTTOM + 8), str(epoch), BLACK, font, anchor="mt")
    draw.text((LEFT, 12), unit, BLACK, font)
    draw.text((RIGHT, BOTTOM + 28), "epoch", BLACK, font, anchor="rt")
    x = RIGHT
    for (name, values), color in zip(curves.items(), COLORS, strict=False):
        points = [
            place(epoch, value)
            for epoch, value in enumerate(values, 1)
            if math.isfinite(value)
        ]
        if points:
            draw.line(points, color, 3, joint="curve")
            for point in points if len(points) < 60 else ():
                draw.circle(point, 3, color)
            draw.text((x, 12), name, color, font, anchor="rt")
            x -= draw.textlength(name, font) + 24
    image.save(path)


def _ticks(low, high):
    """Returns about six round numbers from below low to above high."""
    spread = max(high - low, 1e-3 * max(abs(high), 1e-3))
    step = 10 ** math.floor(math.log10(spread))
    step *= next(f for f in (0.2, 0.5, 1, 2) if spread / (step * f) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [n * step for n in range(first, max(last, first + 1) + 1)]


def tensorboard(folder):
    """Returns Keras' callback for TensorBoard, or names what is missing."""
    for package in ("tensorboard", "tensorflow"):
        if not importlib.util.find_spec(package):
            raise ImportError(
                f"--tensorboard expects {package}: pip install {package}"
            )
    return keras.callbacks.TensorBoard(folder, write_graph=False)


def _figures(logs):
    """Returns bits/dim, and whatever else is of interest, with a comma."""
    logs = logs or {}
    words = {
        **{name: f"{{:.3f}} {unit_of(name)}" for name in PER_DIM},
        **{f"val_{name}": "validation {:.3f}" for name in PER_DIM},
        "classifier_accuracy": "{:.0%} right",
        "skipped_steps": "{:.0f} steps skipped",
    }
    return "".join(
        f"{text.format(float(logs[name]))}, "
        for name, text in words.items()
        if name in logs and (name != "skipped_steps" or float(logs[name]))
    )


def duration(seconds):
    """Returns a time in hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))
