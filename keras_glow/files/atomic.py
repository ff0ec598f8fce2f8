"""Saving without ever leaving half a file behind."""

import contextlib
import os
import pathlib
import shutil
import zipfile

import keras


def partial_folder(path):
    """Where a file is written until it is whole.

    A folder, since Keras puts temporary files of its own beside a large one.
    """
    path = pathlib.Path(path)
    return path.with_name(f".{path.name}.partial")


def remove_partial(path):
    """Removes what a killed save of this file left behind."""
    shutil.rmtree(partial_folder(path), ignore_errors=True)


def remove_partials(folder):
    """Removes what killed saves left behind in a folder."""
    for partial in pathlib.Path(folder).glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path, previous=None):
    """A file that is there whole, or not at all, whatever ends the writing.

    It is written beside its place and renamed into it once it is on the disk.

    Args:
        path: of the file. Missing folders are made.
        previous: where to move the file that is replaced; None to drop it.

    Yields:
        The path to write to.

    Raises:
        OSError: naming the file and the reason; the one before is left.
    """
    path = pathlib.Path(path)
    with _partial_file(path) as partial:
        yield partial
        _sync(partial)
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(partial, path)
        if os.name == "posix":
            _sync(path.parent)  # the new name itself


@contextlib.contextmanager
def whole_folder(path):
    """A new folder that is there whole, or not at all: see `whole_file`.

    Args:
        path: of the folder, where there is nothing yet.

    Yields:
        The folder to write to.

    Raises:
        OSError: naming the folder and the reason.
    """
    path = pathlib.Path(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already: choose another folder")
    remove_partial(path)
    with _partial_file(path) as partial:
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        os.rename(partial, path)
        if os.name == "posix":
            _sync(path.parent)  # the new name itself


def check_writable(path):
    """Fails where `whole_file` would, before hours of work: see its errors."""
    with _partial_file(pathlib.Path(path)) as partial:
        partial.write_bytes(b"\0")


@contextlib.contextmanager
def _partial_file(path):
    partial = partial_folder(path) / path.name
    try:
        if path.is_dir():
            raise OSError("it is a folder")
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield partial
    except OSError as error:
        raise OSError(
            f"{path} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        remove_partial(path)


def save_atomically(model, path, members=None, previous=None):
    """`Glow.save`, with more in the file and the one before kept.

    Args:
        model: a keras.Model.
        path: where to; ends in `.keras`. Missing folders are made.
        members: dict of names and texts to add to the file.
        previous: where to move the file that is replaced; None to drop it.

    Raises:
        OSError: naming the file and the reason; the one before is left.
    """
    with whole_file(path, previous) as partial:
        keras.Model.save(model, partial)
        if members:
            with zipfile.ZipFile(partial, "a") as archive:
                for name, text in members.items():
                    archive.writestr(name, text)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
