"""A run of training in a folder: what `keras-glow train` does."""

import csv
import json
import math
import pathlib

import keras

from keras_glow.callbacks import Checkpoint, SampleGrid
from keras_glow.data import ImageSequence
from keras_glow.ema import averaged_weights
from keras_glow.glow import Glow
from keras_glow.saving import save_atomically
from keras_glow.schedules import warmup_cosine


def start(folder, settings, image_shape, steps):
    """A new model, compiled, and the folder of its run.

    Args:
        folder: of the run; it is made, and must hold no other run.
        settings: dict of plain values: every option that shapes the run. They
            are written to `settings.json` and checked when it is resumed.
        image_shape: (height, width, channels).
        steps: int, of the whole training.

    Raises:
        ValueError: if the folder holds a run already.
    """
    folder = pathlib.Path(folder)
    if (folder / "settings.json").exists():
        raise ValueError(
            f"{folder} holds a run already: go on with it by --resume, or "
            "choose another folder"
        )
    model = Glow(
        image_shape,
        **{
            name: settings[name]
            for name in (
                "levels",
                "depth",
                "width",
                "permutation",
                "coupling",
                "bits",
                "seed",
                "network_dtype",
            )
        },
    )
    schedule = warmup_cosine(
        settings["learning_rate"], steps, min(settings["warmup"], steps // 2)
    )
    ema = settings["ema"]
    model.compile(
        keras.optimizers.Adam(
            schedule,
            global_clipnorm=settings["clip"] or None,
            use_ema=ema > 0,
            ema_momentum=ema,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    return model


def resume(folder, settings):
    """The model of a run that was interrupted, or None before its first epoch.

    Raises:
        ValueError: if the run in the folder has other settings.
    """
    folder = pathlib.Path(folder)
    if not (folder / "settings.json").exists():
        return None
    before = json.loads((folder / "settings.json").read_text())
    different = [
        f"{name} (was {before.get(name)}, is {settings.get(name)})"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(
            f"The run in {folder} had other settings: {', '.join(different)}"
        )
    checkpoint = folder / "checkpoint.keras"
    if not checkpoint.exists():
        (folder / "settings.json").unlink()
        return None
    return keras.saving.load_model(checkpoint)


def train(model, folder, images, validation, settings):
    """Trains to the end, from wherever the model stands.

    After every epoch it writes `checkpoint.keras`, a row of `history.csv` and,
    under `samples/`, a grid; at the end `model.keras`, with the averaged
    weights if there are any.

    Args:
        model: a compiled `Glow`.
        folder: of the run.
        images: uint8 array to train on.
        validation: uint8 array, or None.
        settings: dict, see `start`.
    """
    folder = pathlib.Path(folder)
    batch_size = settings["batch_size"]
    steps = math.ceil(len(images) / batch_size)
    epoch = int(model.optimizer.iterations.numpy()) // steps
    sequence = ImageSequence(
        images,
        batch_size=batch_size,
        flip=settings["flip"],
        seed=settings["seed"],
        epoch=epoch,
    )
    history = folder / "history.csv"
    _keep_epochs(history, epoch)
    model.fit(
        sequence,
        epochs=settings["epochs"],
        initial_epoch=epoch,
        validation_data=None if validation is None else (validation, None),
        callbacks=[
            keras.callbacks.TerminateOnNaN(raise_error=True),
            keras.callbacks.CSVLogger(history, append=True),
            Checkpoint(folder / "checkpoint.keras"),
            SampleGrid(folder / "samples", temperatures=(0.5, 0.7, 1.0)),
        ],
    )
    with averaged_weights(model):
        save_atomically(model, folder / "model.keras")


def _keep_epochs(history, epochs):
    """Drops the rows of epochs that the checkpoint does not have."""
    if not history.exists():
        return
    with open(history, newline="") as file:
        rows = list(csv.reader(file))
    with open(history, "w", newline="") as file:
        csv.writer(file).writerows(rows[: 1 + epochs])
