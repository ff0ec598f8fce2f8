"""Loads and checks the images of a folder or a file, as arrays."""

import os
import pathlib
import typing
import warnings
from collections.abc import Sequence

import numpy as np

from keras_glow.checks import (
    ImageFormat,
    check_choice,
    check_integer,
    printable_path,
)
from keras_glow.images.decoding import (
    BadImage,
    Form,
    decode_picture,
    read_picture,
)
from keras_glow.images.folder import check_folder, load_folder
from keras_glow.images.npz import TRAIN_KEYS, check_resizable, load_npz
from keras_glow.images.report import Report
from keras_glow.images.split import pixel_digests


def load_images(
    path: str | os.PathLike,
    size: int | None,
    channels: int = 3,
    keys: Sequence[str] = TRAIN_KEYS,
    on_bad: str = "error",
    upscale: bool = False,
    cache: str | os.PathLike | None = None,
    verbose: int = 0,
    return_names: bool = False,
    bits: int | None = 8,
) -> typing.Any:
    """Load the images of a folder, an `.npz` or an `.npy` file as one array.

    Every image in a folder counts (PNG, JPEG, WEBP, BMP, GIF, TIFF; HEIC with
    pillow-heif), at any depth, in the order of their names; hidden files do
    not. An image is turned upright as its EXIF data say, laid on white where it
    is transparent, cropped to a centred square and resized with antialiasing.

    Args:
        path: a folder, or an `.npz` file with uint8 images under one of `keys`,
            `(count, height, width)` or `(count, height, width, channels)`, or
            an `.npy` file of them, which is mapped into memory.
        size: int, height and width to resize to, or None to keep those of an
            `.npz` file. Only images of 8 bits are resized there.
        channels: 3 for colour or 1 for grey. Only used for a folder; an `.npz`
            file knows.
        keys: names of the array in an `.npz` file; the first that exists is
            read.
        on_bad: how to treat images of a folder that cannot be used: "error", or
            "skip" to go on without them and warn.
        upscale: bool, whether images of a folder that are smaller than `size`
            are enlarged. If not, they cannot be used.
        cache: path of an `.npy` file, or None. The decoded images of a folder
            are kept there, so that they need not be decoded again as long as
            the names, sizes and times of the files stay the same.
        verbose: 0 or 1. 1 prints a progress bar and a report on a folder.
        return_names: bool, whether the names of the files are returned too.
        bits: as of `Glow`. More than 8 ask for uint16, and None for floats, in
            an array; in a folder more than 8 ask for grey files of 16 bits,
            whose values are taken as they are.

    Returns:
        Array `(count, size, size, channels)`, uint8 up to 8 bits; with `cache`
        a read-only memory map. With `return_names` a tuple of it and a list of
        str, one for each image, relative to the folder; None for a file.

    Raises:
        ValueError: naming every file that cannot be used, or what else is wrong
            with `path`.
    """
    check_choice("on_bad", on_bad, ("error", "skip"))
    _check_size(size)
    path = pathlib.Path(path)
    if not path.is_dir():
        images = load_npz(path, size, keys, bits)
        return (images, None) if return_names else images
    if size is None:
        raise ValueError(
            f"`size` is expected for the images of {printable_path(path)}"
        )
    form = _form_of_files(path, size, channels, bits, upscale)
    images, report = load_folder(path, form, cache, verbose)
    problem = report.problem()
    if not report.images:
        raise ValueError(problem)
    if problem and on_bad == "error":
        raise ValueError(f'{problem}; on_bad="skip" goes on without them')
    if verbose:
        print("\n".join(report.lines(notes=False)))
    elif problem:
        warnings.warn(f"Left out: {problem}", stacklevel=2)
    return (images, report.names) if return_names else images


def load_image(
    file: str | os.PathLike, size: int, channels: int = 3, bits: int | None = 8
) -> np.ndarray:
    """Load one image file as an array `(size, size, channels)`.

    Unlike the images of a folder, it may be smaller than `size`.

    Args:
        file: its path, or a binary file such as `io.BytesIO(content)`.
        size: int, height and width to resize to.
        channels: 3 for colour or 1 for grey.
        bits: see `load_images`.

    Raises:
        ValueError: naming the file, if it cannot be used.
    """
    _check_size(size)
    read: typing.Any = read_picture
    shown = file
    if hasattr(file, "read"):
        file, read, shown = file.read(), decode_picture, "The image"
    form = _form_of_files(shown, size, channels, bits)
    try:
        return read(file, form).pixels
    except BadImage as error:
        raise ValueError(f"{printable_path(shown)} {error}") from None


def check_data(
    path: str | os.PathLike,
    size: int | None = None,
    channels: int = 3,
    keys: Sequence[str] = TRAIN_KEYS,
    upscale: bool = False,
    verbose: int = 0,
    bits: int | None = 8,
) -> Report:
    """Report everything that would keep `load_images` from loading, and more.

    Args:
        path: see `load_images`, as for `channels`, `keys` and `upscale`.
        size: int, or None: then no image is too small.
        channels: 3 or 1.
        keys: names of the array.
        upscale: bool.
        verbose: 1 for a progress bar.
        bits: see `load_images`.

    Returns:
        A `keras_glow.images.Report`.

    Raises:
        ValueError: if `path` is neither a folder nor an `.npz` file of images,
            or if its images cannot be resized.
    """
    _check_size(size)
    path = pathlib.Path(path)
    if path.is_dir():
        form = _form_of_files(path, size, channels, bits, upscale)
        return check_folder(path, form, verbose)
    images = load_npz(path, None, keys, bits)
    report = Report(str(path), images=len(images))
    report.duplicates = len(images) - len(set(pixel_digests(images)))
    if images.dtype != "uint8":
        _report_values(images, bits, report)
    height, width = images.shape[1:3]
    if size is not None and (height, width) != (size, size):
        check_resizable(images, path, size)
        note = f"holds images of {width}x{height}: resized to {size}x{size}"
        report.notes.append(("", note))
    return report


def _report_values(images, bits, report):
    low, high = ImageFormat((), bits).limits
    usable = np.isfinite(images) & (images >= low) & (images <= high)
    bad = np.count_nonzero(~usable.all((1, 2, 3)))
    if bad:
        allowed = "finite" if bits is None else f"in {low}..{high}"
        report.bad.append(("", f"holds {bad} images with values not {allowed}"))
        report.images -= bad


def channels_of_folder(bits: int | None, grey: bool = False) -> int:
    """Returns the channels that images of a folder are read with."""
    return 1 if grey or (bits or 0) > 8 else 3


def _form_of_files(path, size, channels, bits, upscale=False):
    check_choice("channels", channels, (1, 3))
    if bits is None or (bits > 8 and channels != 1):
        expected = "an .npy or .npz file: image files hold no floats"
        if bits:
            expected = "read with 1 channel: files of more than 8 bits are grey"
        raise ValueError(
            f"{printable_path(path)} is expected to be {expected}. Received: "
            f"bits={bits}, channels={channels}"
        )
    return Form(size, channels, bits, upscale)


def _check_size(size):
    if size is not None:
        check_integer("size", size, 1)
