"""Saves files without ever leaving half a file behind."""

import contextlib
import os
import pathlib
import shutil

from keras_glow.checks import printable_path


def partial_folder(path, shared=False):
    """Return where a file is written until it is whole: see `atomic_file`.

    It is a folder: Keras puts temporary files of its own beside a large one.
    """
    path = real_path(path)
    process = f".{os.getpid()}" if shared else ""
    return path.with_name(f".{path.name}{process}.partial")


def real_path(path):
    """Return where a file lies behind symbolic links, which a save keeps."""
    return pathlib.Path(os.path.realpath(os.fsdecode(path)))


def remove_partial(path):
    """Remove the remains of a killed save of this file."""
    shutil.rmtree(partial_folder(path), ignore_errors=True)


def remove_partials(folder, name="*"):
    """Remove the remains of killed saves; `name` is a pattern for `glob`."""
    for partial in pathlib.Path(folder).glob(f".{name}.partial"):
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(path, previous=None, shared=False):
    """Write a file that is there whole, or not at all, whatever interrupts it.

    It is written beside its place and renamed into it once it is on the disk. A
    symbolic link stays, and the file that it leads to is replaced; the new file
    has the permissions of the old one.

    Args:
        path: of the file, a string, bytes or a path. Missing folders are made.
        previous: where to move the file that is replaced; None to drop it.
        shared: bool, whether several processes may write the file at the same
            time. Each then writes one of its own, and the last to end wins;
            `remove_partial` does not know these.

    Yields:
        The path to write to.

    Raises:
        OSError: naming the file and the reason; the previous one is kept.
    """
    target = real_path(path)
    with _partial_file(path, shared) as partial:
        yield partial
        _sync(partial)
        if target.exists():
            shutil.copymode(target, partial)
            if previous:  # which may be on another disk than the target
                shutil.move(target, previous)
        os.replace(partial, target)
        _sync_names(target.parent)


@contextlib.contextmanager
def atomic_folder(path):
    """Write a new folder, where there is nothing yet: see `atomic_file`."""
    path = pathlib.Path(os.fsdecode(path))
    if os.path.lexists(path):
        shown = printable_path(path)
        raise FileExistsError(f"{shown} exists already: choose another folder")
    remove_partial(path)
    with _partial_file(path) as partial:
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        os.rename(partial, path)
        _sync_names(path.parent)


def check_writable(path):
    """Fail where `atomic_file` would, but before hours of work."""
    with _partial_file(path) as partial:
        partial.write_bytes(b"\0")


@contextlib.contextmanager
def _partial_file(path, shared=False):
    path = pathlib.Path(os.fsdecode(path))
    folder, target = partial_folder(path, shared), real_path(path)
    try:
        if target.is_symlink():
            raise OSError("its symbolic links lead nowhere")
        if target.is_dir():
            raise OSError("it is a folder")
        folder.mkdir(parents=True, exist_ok=True)
        yield folder / path.name
    except OSError as error:
        reason = error.strerror or error
        line = f"{printable_path(path)} cannot be written: {reason}"
        raise OSError(line) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder):
    """Put new names in a folder on the disk, where that can be asked for."""
    if os.name == "posix":
        _sync(folder)
