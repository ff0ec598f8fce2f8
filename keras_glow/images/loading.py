"""Image files in, image grids out. Everything here is uint8."""

import hashlib
import pathlib
import warnings
import zipfile

import numpy as np

from keras_glow.checks import check_choice, check_integer, refuse
from keras_glow.images.decoding import BadImage, fit_pixels, read_picture
from keras_glow.images.folder import Report, check_folder, load_folder, shown

# What each key of an .npz file is for, in the order of preference.
TRAIN_KEYS = ("images", "x_train")
TEST_KEYS = ("images", "x_test", "x_train")
# And of the labels beside them.
LABEL_KEYS = {"images": "labels", "x_train": "y_train", "x_test": "y_test"}


def load_images(
    path,
    size,
    channels=3,
    keys=TRAIN_KEYS,
    on_bad="error",
    upscale=False,
    cache=None,
    verbose=0,
):
    """Images of a folder or an `.npz` file as one uint8 array.

    Of a folder every image counts (PNG, JPEG, WEBP, BMP, GIF, TIFF), at any
    depth, in the order of their names; hidden files do not. An image is turned
    upright as its EXIF data say, laid on white where it is transparent, cropped
    to a centred square and resized with antialiasing.

    Args:
        path: a folder, or an `.npz` file with uint8 images under one of `keys`,
            `(count, height, width)` or `(count, height, width, channels)`.
        size: int, height and width to resize to, or None to keep those of an
            `.npz` file.
        channels: 3 for colour or 1 for grey (of a folder; an `.npz` file
            knows).
        keys: names of the array in an `.npz` file, the first that exists.
        on_bad: what to do about images of a folder that cannot be used:
            "error", or "skip" to go on without them and warn.
        upscale: bool, whether images of a folder that are smaller than `size`
            are enlarged. If not, they cannot be used.
        cache: path of an `.npy` file, or None. There the images of a folder are
            kept, so that they need not be decoded again as long as the names,
            sizes and times of the files stay the same.
        verbose: 0 or 1. 1 prints a progress bar and what was found in a folder.

    Returns:
        uint8 array `(count, size, size, channels)`; with `cache` a read-only
        memory map.

    Raises:
        ValueError: naming every file that cannot be used, or what else is wrong
            with `path`.
    """
    check_choice("on_bad", on_bad, ("error", "skip"))
    _check_size(size, channels)
    path = pathlib.Path(path)
    if not path.is_dir():
        return _load_npz(path, size, keys)
    if size is None:
        raise ValueError(f"`size` is expected for the images of {shown(path)}")
    images, report = load_folder(path, size, channels, upscale, cache, verbose)
    problem = report.problem()
    if not report.images:
        raise ValueError(problem)
    if problem and on_bad == "error":
        raise ValueError(f'{problem}; on_bad="skip" goes on without them')
    if verbose:
        print("\n".join(report.lines(notes=False)))
    elif problem:
        warnings.warn(f"Left out: {problem}", stacklevel=2)
    return images


def check_data(
    path, size=None, channels=3, keys=TRAIN_KEYS, upscale=False, verbose=0
):
    """Looks for what would keep `load_images` from loading, and for more.

    Args:
        path: see `load_images`; so are the others.
        size: int, or None: then no image is too small.
        channels: 3 or 1.
        keys: names of the array.
        upscale: bool.
        verbose: 1 for a progress bar.

    Returns:
        A `keras_glow.images.folder.Report`.

    Raises:
        ValueError: if `path` is neither a folder nor an `.npz` file of images,
            or of images that cannot be resized.
    """
    _check_size(size, channels)
    path = pathlib.Path(path)
    if path.is_dir():
        return check_folder(path, size, channels, upscale, verbose)
    images = _load_npz(path, None, keys)
    report = Report(str(path), images=len(images))
    digests = {hashlib.sha256(image.tobytes()).digest() for image in images}
    report.duplicates = len(images) - len(digests)
    height, width = images.shape[1:3]
    if size is not None and (height, width) != (size, size):
        _check_resizable(images, path)
        note = f"holds images of {width}x{height}: resized to {size}x{size}"
        report.notes.append(("", note))
    return report


def load_labels(path, keys=TRAIN_KEYS):
    """The labels beside the images that `load_images` reads from a file.

    Args:
        path: `.npz` file with `labels`, `y_train` or `y_test`, `(count,)`,
            beside `images`, `x_train` or `x_test`.
        keys: names of the images, the first that exists.

    Returns:
        Array `(count,)`, as it is in the file.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    key, _ = _read_npz(path, keys)
    _, labels = _read_npz(path, (LABEL_KEYS[key],))
    return labels


def load_image(file, size, channels=3):
    """One image file as a uint8 array `(size, size, channels)`.

    Unlike those of a folder, it may be smaller than `size`.

    Raises:
        ValueError: naming the file, if it cannot be used.
    """
    _check_size(size, channels)
    try:
        return read_picture(file, size, channels).pixels
    except BadImage as error:
        raise ValueError(f"{shown(file)} {error}") from None


def _check_size(size, channels):
    check_choice("channels", channels, (1, 3))
    if size is not None:
        check_integer("size", size, 1)


def _read_npz(path, keys):
    """The first of `keys` that is in a file, and its array."""
    if path.suffix != ".npz" or not path.is_file():
        raise ValueError(
            f"{shown(path)} is expected to be a folder of images or an .npz "
            "file" + ("" if path.exists() else ", and does not exist")
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{shown(path)} cannot be read: it is no .npz file")
    try:
        with np.load(path) as arrays:
            names = list(arrays)
            key = next((key for key in keys if key in names), None)
            array = None if key is None else arrays[key]
    except Exception as error:
        # NumPy reports damage by many types of exception.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{shown(path)} cannot be read: {reason[0]}") from None
    if key is None:
        raise ValueError(
            f"{shown(path)} is expected to hold one of {', '.join(keys)}. "
            f"Received: {', '.join(names) or 'nothing'}"
        )
    return key, array


def _load_npz(path, size, keys):
    key, images = _read_npz(path, keys)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != "uint8" or not images.size:
        raise ValueError(
            f"{key} in {shown(path)} is expected to be uint8 (count, height, "
            f"width, channels). Received: dtype={images.dtype}, "
            f"shape={images.shape}"
        )
    if size is None or images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    _check_resizable(images, path)
    channels = images.shape[-1]
    return np.stack(
        [
            fit_pixels(
                Image.fromarray(image[..., 0] if channels == 1 else image),
                size,
                channels,
            )[0]
            for image in images
        ]
    )


def _check_resizable(images, path):
    if images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{shown(path)} is expected to hold images of 1 or 3 channels to "
            f"be resized. Received: shape={images.shape}"
        )


def image_grid(images, columns=None, padding=2):
    """One picture of many: row by row, pixels as they are, white between.

    Args:
        images: uint8 array `(count, height, width, channels)`.
        columns: int, or None for about a square.
        padding: int, pixels between and around the images.

    Returns:
        uint8 array `(height, width, channels)`.
    """
    count, height, width, channels = images.shape
    columns = columns or max(1, int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    cell = (height + padding, width + padding)
    grid = np.full(
        (rows * cell[0] + padding, columns * cell[1] + padding, channels),
        255,
        "uint8",
    )
    for i, image in enumerate(images):
        y = padding + (i // columns) * cell[0]
        x = padding + (i % columns) * cell[1]
        grid[y : y + height, x : x + width] = image
    return grid


def save_image(image, path):
    """Writes a uint8 array `(height, width, channels)` as a PNG.

    There may be 1 channel, 3, or 4, of which the last is opacity. Missing
    folders are made.

    Raises:
        ValueError: if there are others.
    """
    from PIL import Image

    if image.shape[-1] not in (1, 3, 4):
        refuse("image", "of 1, 3 or 4 channels to be a PNG", image)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        path, format="PNG"
    )


def save_grid(images, path, columns=None, padding=2):
    """Writes `image_grid(images, columns, padding)` as a PNG."""
    save_image(image_grid(images, columns, padding), path)
