"""Keeps decoded images in a file that is mapped into memory.

The file is an ordinary `.npy` file. A line of JSON follows the array: the key,
which says what the images were made from, their checksum, and a report.
"""

import contextlib
import dataclasses
import glob
import itertools
import json
import os
import zlib

import numpy as np

from keras_glow.files.atomic import atomic_file, remove_partials


def open_cache(path, key):
    """Open a cache file; None if it is missing, damaged, or has another key.

    Returns a read-only memory map `(count, height, width, channels)`,
    and the report as a dict.
    """
    # Whatever is wrong with the file, it will be made anew.
    with contextlib.suppress(Exception):
        images = np.load(path, mmap_mode="r")
        with open(path, "rb") as file:
            file.seek(images.offset + images.nbytes)
            about = json.load(file)
        if (
            about["key"] == key
            and about["shape"] == list(images.shape)
            and about["crc32"] == _checksum(zlib.crc32(images), about["report"])
        ):
            return images, about["report"]
    return None


def write_cache(path, key, pixels, shape, report, dtype="uint8"):
    """Write a cache file that is there whole, or not at all.

    It is written by ordinary writes, not through a memory map: on a full disk
    those fail, while a memory map kills the process.

    Args:
        path: of the file. If it cannot be written, the previous one is kept.
        key: str, see `open_cache`.
        pixels: iterable of images. If there are none, no file is written.
        shape: (height, width, channels) of an image.
        dtype: of the images.
        report: `Report`, complete once the images have been taken.
    """
    pixels = iter(pixels)
    first = next(pixels, None)
    if first is None:
        return
    count, checksum = 0, 0
    # Some file systems have no locks: there several processes may write.
    with atomic_file(path, shared=True) as partial, open(partial, "wb") as file:
        # NumPy pads the header, so that it keeps its length with any count.
        _write_header(file, (0, *shape), dtype)
        for image in itertools.chain([first], pixels):
            image = np.ascontiguousarray(image)
            file.write(image)
            count, checksum = count + 1, zlib.crc32(image, checksum)
        report = dataclasses.asdict(report)
        about = {
            "key": key,
            "shape": [count, *shape],
            "crc32": _checksum(checksum, report),
            "report": report,
        }
        file.write(json.dumps(about).encode())
        file.seek(0)
        _write_header(file, (count, *shape), dtype)


def _checksum(checksum_of_images, report):
    return zlib.crc32(json.dumps(report).encode(), checksum_of_images)


def _write_header(file, shape, dtype):
    descr = np.dtype(dtype).str
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )


@contextlib.contextmanager
def cache_lock(path):
    """Let one process at a time prepare the cache files of a folder.

    The others wait, and then find the file ready. Remains of a killed process
    are removed. The folder is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has none: each process prepares its own.
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Some network file systems have no locks: there, too, each its own.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
            remove_partials(path.parent, f"{glob.escape(path.name)}.*")
        yield
    finally:
        os.close(folder)
