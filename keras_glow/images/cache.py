"""Decoded images in a file, mapped into memory instead of decoded again.

The file is an ordinary `.npy` file. After its array comes a line of JSON: the
key, which says what the images were made from, their checksum, and a report.
"""

import contextlib
import glob
import json
import os
import zlib

import numpy as np


def open_cache(path, key):
    """The images and the report in a cache file.

    Args:
        path: of the file.
        key: str, which the file should have.

    Returns:
        Tuple of a read-only memory map, uint8 `(count, height, width,
        channels)`, and the report; or None if the file is missing, damaged, or
        has another key.
    """
    try:
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
    except Exception:  # noqa: S110
        pass  # Whatever is wrong with it, it is made anew.
    return None


def write_cache(path, key, most, shape, fill):
    """Writes a cache file that is there whole, or not at all.

    It is written by ordinary writes, not through a memory map: on a full disk
    those fail, while a memory map kills the process.

    Args:
        path: where to.
        key: str, see `open_cache`.
        most: int, as many images as there may be.
        shape: (height, width, channels) of an image.
        fill: function that hands each image to the function that it is given,
            and returns the report. Without any image no file is written.

    Returns:
        The report.

    Raises:
        OSError: if the file cannot be written; the one before is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    count, checksum = 0, 0

    def write(image):
        nonlocal count, checksum
        image = np.ascontiguousarray(image)
        file.write(image)
        count, checksum = count + 1, zlib.crc32(image, checksum)

    try:
        with open(partial, "wb") as file:
            # The header leaves room to put the final count into its place.
            _write_header(file, (most, *shape))
            report = fill(write)
            about = {
                "key": key,
                "shape": [count, *shape],
                "crc32": _checksum(checksum, report),
                "report": report,
            }
            file.write(json.dumps(about).encode())
            file.seek(0)
            _write_header(file, (count, *shape))
            file.flush()
            os.fsync(file.fileno())
        if count:
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return report


def _checksum(of_images, report):
    return zlib.crc32(json.dumps(report).encode(), of_images)


def _write_header(file, shape):
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )


@contextlib.contextmanager
def cache_lock(path):
    """Lets one process at a time prepare the caches of a folder.

    The others wait, and then find it done. What a killed process left behind is
    removed.

    Args:
        path: of the cache file; its folder is made if it is missing.

    Raises:
        OSError: if the folder cannot be made or opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows, where each prepares its own
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Some network file systems have no locks: there, too, each its own.
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
            stale = f".{glob.escape(path.name)}.*.partial"
            for file in path.parent.glob(stale):
                file.unlink()
        yield
    finally:
        os.close(folder)
