"""How much likelihood a setting of training reaches in the same time.

    python experiments/likelihood.py faces32_train.npz \
        --validation faces32_valid.npz --out runs/likelihood.csv \
        --cpu-minutes 4 --width 64 --learning-rate 8e-3

Trains one model on one thread for a time of the processor, which other work on
the machine hardly disturbs, with the defaults of `keras-glow train --minutes`
except for the settings that are named, and adds a row to a table: the settings
that differ, steps, parameters and bits/dim on the validation images.
"""

import argparse
import csv
import dataclasses
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from run_settings import add_settings, given_settings

import keras_glow
from keras_glow.callbacks import TimeBudget
from keras_glow.cli import run
from keras_glow.cli.settings import default_settings
from keras_glow.data import ImageSequence


class CpuBudget(TimeBudget):
    """A budget of time of the processor."""

    clock = staticmethod(time.process_time)


def main():
    """Trains, evaluates, adds the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="folder or .npz")
    parser.add_argument("--validation", required=True, help="folder or .npz")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--cpu-minutes", type=float, default=4.0)
    parser.add_argument("--size", type=int, default=32, help="of the images")
    add_settings(parser, "minutes")
    options = parser.parse_args()
    images = keras_glow.images.load_images(options.train, options.size)
    validation = keras_glow.images.load_images(options.validation, options.size)
    defaults = dataclasses.asdict(default_settings(options.cpu_minutes))
    defaults["flip"] = True
    settings = given_settings(options, defaults)
    changed = {
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if value != defaults[name]
    }
    model = run.new_model(settings, images.shape[1:], 0)
    model.fit(
        ImageSequence(
            images,
            batch_size=settings.batch_size,
            flip=settings.flip,
            seed=settings.seed,
        ),
        epochs=settings.epochs,
        verbose=2,
        callbacks=[CpuBudget(settings.minutes, settings.learning_rate)],
    )
    bits = model.bits_per_dim(validation, seed=0).mean()
    row = {
        "minutes": options.cpu_minutes,
        "settings": " ".join(f"{k}={v}" for k, v in sorted(changed.items())),
        "steps": int(model.optimizer.iterations),
        "parameters": model.count_params(),
        "bits_per_dim": f"{bits:.4f}",
    }
    new = not options.out.exists()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row)


if __name__ == "__main__":
    main()
