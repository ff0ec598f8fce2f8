"""Saving without ever leaving half a file behind."""

import os
import pathlib
import zipfile


def partial_path(path):
    """The name that a file has until it is whole."""
    path = pathlib.Path(path)
    return path.with_name(f".{path.stem}.partial.keras")


def save_atomically(model, path, members=None, previous=None):
    """Writes a `.keras` file that is there whole, or not at all.

    `model.save` writes in place: killed meanwhile, it leaves no model, and
    takes the one before with it. Here the file is written beside its place and
    renamed into it once it is on the disk.

    Args:
        model: a keras.Model.
        path: where to; ends in `.keras`. Missing folders are made.
        members: dict of names and texts to add to the file.
        previous: where to move the file that is replaced; None to drop it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        model.save(partial)
        if members:
            with zipfile.ZipFile(partial, "a") as archive:
                for name, text in members.items():
                    archive.writestr(name, text)
        _sync(partial)
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":
        _sync(path.parent)  # the new name itself


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
