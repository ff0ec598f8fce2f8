"""Saving without ever leaving half a file behind."""

import os
import pathlib


def save_atomically(model, path):
    """Writes a `.keras` file that is there whole, or not at all.

    `model.save` writes in place: killed meanwhile, it leaves no model, and
    takes the one before with it. Here the file is written beside its place and
    renamed into it once it is on the disk.

    Args:
        model: a keras.Model.
        path: where to; ends in `.keras`. Missing folders are made.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.keras")
    try:
        model.save(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
