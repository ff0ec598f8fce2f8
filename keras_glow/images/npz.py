"""Reads `.npz` files of anybody's; nothing in them is run."""

import contextlib
import math
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

from keras_glow.checks import ImageFormat, one_line, printable_path
from keras_glow.images.decoding import fit_pixels

# What each key of an .npz file is for, in the order of preference.
TRAIN_KEYS = ("images", "x_train")
TEST_KEYS = ("images", "x_test", "x_train")
# The key of the labels that belong to each key of images.
LABEL_KEYS = {"images": "labels", "x_train": "y_train", "x_test": "y_test"}


def open_npz(file, max_bytes=math.inf):
    """Open an `.npz` file, by its path or as a binary file: see `numpy.load`.

    Its arrays may be compressed, so a small file can hold a lot: a ValueError
    says if it is more than `max_bytes`. NumPy and zipfile report damage by many
    other types of exception.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        packed = sum(member.compress_size for member in members)
        raise ValueError(f"{packed:,} bytes grow to {total:,}")
    if hasattr(file, "seek"):
        file.seek(0)
    return np.load(file, allow_pickle=False)


@contextlib.contextmanager
def _open(path):
    """Open the arrays of an `.npz` file, or the `images` of an `.npy` file."""
    if path.suffix == ".npy":
        yield {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
        return
    with open_npz(path) as arrays:
        yield arrays


def read_npz(path, keys):
    """Read the first array of an `.npz` file that exists, of those named.

    Returns its name and the array; a ValueError says what is wrong.
    """
    shown = printable_path(path)
    if path.suffix not in (".npz", ".npy") or not path.is_file():
        raise ValueError(
            f"{shown} is expected to be a folder of images or an .npz file, or "
            "an .npy file" + ("" if path.exists() else ", and does not exist")
        )
    try:
        with _open(path) as arrays:
            names = list(arrays)
            key = next((key for key in keys if key in names), None)
            array = None if key is None else arrays[key]
    except Exception as error:
        raise ValueError(f"{shown} cannot be read: {one_line(error)}") from None
    if key is None:
        raise ValueError(
            f"{shown} is expected to hold one of {', '.join(keys)}. "
            f"Received: {', '.join(names) or 'nothing'}"
        )
    return key, array


def load_npz(path, size, keys, bits=8):
    """Load the images of an `.npz` or `.npy` file: see `load_images`."""
    key, images = read_npz(path, keys)
    if images.ndim == 3:
        images = images[..., None]
    dtype = ImageFormat((), bits).dtype
    fits = images.dtype == dtype or (bits is None and images.dtype.kind == "f")
    if images.ndim != 4 or not fits or not images.size:
        raise ValueError(
            f"{key} in {printable_path(path)} is expected to be {dtype} (count,"
            f" height, width, channels) for bits={bits}. Received: "
            f"dtype={images.dtype}, shape={images.shape}"
        )
    if size is None or images.shape[1:3] == (size, size):
        return images
    check_resizable(images, path, size)
    channels = images.shape[-1]
    pictures = map(Image.fromarray, images[..., 0] if channels == 1 else images)
    return np.stack([fit_pixels(p, size, channels)[0] for p in pictures])


def check_resizable(images, path, size):
    """Refuse images that Pillow could not resize, naming their file."""
    if images.dtype != "uint8" or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{printable_path(path)} is expected to hold images of {size}x"
            f"{size}: only uint8 is resized, of 1 or 3 channels. Received: "
            f"dtype={images.dtype}, shape={images.shape}"
        )


def load_labels(
    path: str | os.PathLike, keys: Sequence[str] = TRAIN_KEYS
) -> np.ndarray:
    """Load the labels beside the images that `load_images` reads from a file.

    Args:
        path: `.npz` file with `labels`, `y_train` or `y_test`, `(count,)`,
            beside `images`, `x_train` or `x_test`.
        keys: names of the images; the first that exists counts.

    Returns:
        Array `(count,)`, as it is in the file.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    key, _ = read_npz(path, keys)
    return read_npz(path, (LABEL_KEYS[key],))[1]
