"""Checkpoints: one file holds a model, its optimiser and where training stands.

A checkpoint is a `.keras` file, as `Glow.save` writes it, with one extra
member: `run.json`, which holds the epoch, the batch of the epoch, the metrics
gathered in it and the settings of the run.
"""

import json
import os
import pathlib
import typing
import warnings
import zipfile

import keras
import numpy as np
from keras import ops

from keras_glow.checks import one_line
from keras_glow.files.atomic import atomic_file, remove_partial

MEMBER = "run.json"


class Progress(typing.NamedTuple):
    """Where a training stands."""

    epoch: int = 0  # to continue in, counted from 0
    batch: int = 0  # of that epoch to continue with, counted from 0
    metrics: list = []  # the values of `model.metrics_variables`, nested
    settings: dict = {}  # plain values that shape the run
    seconds: float = 0.0  # that the training took so far


def previous_path(path):
    """Returns the path at which the checkpoint before the latest is kept."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.stem}.previous.keras")


def save_checkpoint(model, path, epoch, batch=0, settings=None, seconds=0.0):
    """Saves a checkpoint whole or not at all, and keeps the one before.

    `model` is a compiled `Glow`, `path` ends in `.keras`; for the rest see
    `Progress`.

    Raises:
        FloatingPointError: if a weight is not finite; nothing is written.
        OSError: if the file cannot be written; earlier files are left.
    """
    for weight in model.weights:
        if not np.isfinite(ops.convert_to_numpy(weight)).all():
            raise FloatingPointError(f"Weight {weight.path} is not finite")
    metrics = [
        ops.convert_to_numpy(variable).tolist()
        for variable in model.metrics_variables
    ]
    progress = Progress(epoch, batch, metrics, settings or {}, seconds)
    text = json.dumps(progress._asdict(), indent=2)
    with atomic_file(path, previous_path(path)) as partial:
        keras.Model.save(model, partial)
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(MEMBER, text)


def load_checkpoint(path):
    """Loads the model of a checkpoint, ready for `fit`, and its progress.

    If the latest file cannot be read, the one before is taken, with a warning,
    and the latest is renamed to `<name>.damaged.keras`: otherwise the next save
    would replace the readable file with the damaged one. Files that a killed
    save left behind are removed.

    Returns:
        Tuple of both, or None if there is no checkpoint yet.

    Raises:
        ValueError: if there are files, but none that can be read.
    """
    path = pathlib.Path(path)
    remove_partial(path)
    reasons = []
    for file in (path, previous_path(path)):
        if not file.exists():
            continue
        try:
            progress = read_progress(file)
            model = keras.saving.load_model(file)
        except Exception as error:
            # Keras raises many types of exception for a damaged file.
            reasons.append(f"{file} cannot be read: {one_line(error)}")
            continue
        if reasons:
            os.replace(path, path.with_name(f"{path.stem}.damaged.keras"))
            warnings.warn(f"{reasons[0]}. Going on from {file}", stacklevel=2)
        return model, progress
    if reasons:
        raise ValueError("; ".join(reasons))
    return None


def read_progress(file):
    """Reads the `Progress` from a checkpoint file."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
        if damaged:
            raise ValueError(f"{damaged} is damaged")
        return Progress(**json.loads(archive.read(MEMBER)))
