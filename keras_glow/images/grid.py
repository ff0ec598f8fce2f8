"""Writes images as files: one, many as a grid, or as an animation."""

import io
import os
import pathlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from keras_glow.checks import check_positive, refuse

ANIMATIONS = (".gif", ".webp")


def image_grid(
    images: npt.ArrayLike,
    columns: int | None = None,
    padding: int = 2,
    scale: int = 1,
) -> np.ndarray:
    """Lay out images row by row, with white between them.

    Args:
        images: uint8 array `(count, height, width, channels)`.
        columns: int, or None for about a square.
        padding: int, pixels between and around the images.
        scale: int, how many pixels high and wide each pixel becomes.

    Returns:
        uint8 array `(height, width, channels)`.
    """
    images = _enlarged(images, scale)
    count = len(images)
    columns = columns or max(1, int(np.ceil(np.sqrt(count))))
    empty = -count % columns  # places in the last row
    above, none = (padding, 0), (0, 0)
    images = np.pad(
        images, ((0, empty), above, above, none), constant_values=255
    )
    rows, (_, height, width, channels) = len(images) // columns, images.shape
    grid = images.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    return np.pad(grid, (above[::-1], above[::-1], none), constant_values=255)


def _enlarged(images, scale):
    return np.repeat(np.repeat(images, scale, axis=1), scale, axis=2)


def heat_map(values: npt.ArrayLike, channels: int = 1) -> np.ndarray:
    """Draw numbers as grey images: the higher, the brighter.

    Black and white are the first and the last percentile of all of them.

    Args:
        values: float array `(count, height, width)`.
        channels: int, equal ones.

    Returns:
        uint8 array `(count, height, width, channels)`.
    """
    black, white = np.percentile(values, (1, 99))
    white = max(white, np.nextafter(black, np.inf))
    return np.repeat(shades(values, black, white)[..., None], channels, axis=-1)


def shades(images: npt.ArrayLike, black: float, white: float) -> np.ndarray:
    """Scale pixels to 0..255, uint8; those beyond black or white go there."""
    shares = (images - black) / (white - black)
    return np.rint(255 * np.clip(shares, 0, 1)).astype("uint8")


def save_grid(
    images: npt.ArrayLike,
    path: str | os.PathLike,
    columns: int | None = None,
    padding: int = 2,
    scale: int = 1,
) -> None:
    """Write the result of `image_grid` as a file: see `save_image`."""
    save_image(image_grid(images, columns, padding, scale), path)


def save_image(image: npt.ArrayLike, path: str | os.PathLike) -> None:
    """Write an image as a file. Missing folders are made.

    Args:
        image: see `png_bytes`.
        path: of the file; its suffix says the format, such as `.png`. `.jpg`
            loses some of the detail.

    Raises:
        ValueError: see `png_bytes`; if no format has this suffix.
        OSError: if the format has no such channels, or the file cannot be
            written.
    """
    image = pillow_image(image)
    path = pathlib.Path(os.fsdecode(path))
    suffix = path.suffix.lower()
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        refuse("path", "a file such as .png or .jpg", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def save_animation(
    images: npt.ArrayLike,
    path: str | os.PathLike,
    fps: float = 12.0,
    scale: int = 1,
) -> None:
    """Write images as an animation that repeats. Missing folders are made.

    WebP keeps every pixel. GIF has 256 colours for each frame.

    Args:
        images: uint8 array `(count, height, width, channels)`, with 1 channel
            or 3.
        path: of the file, `.gif` or `.webp`.
        fps: float > 0, images in a second; GIF has at most 50.
        scale: int, how many pixels high and wide each pixel becomes.

    Raises:
        ValueError: naming the argument that is not as described.
        OSError: if the file cannot be written.
    """
    if np.ndim(images) != 4 or not len(images):
        expected = "uint8 (count, height, width, channels), not empty"
        refuse("images", expected, images)
    path = pathlib.Path(os.fsdecode(path))
    if path.suffix.lower() not in ANIMATIONS:
        refuse("path", f"a file such as {' or '.join(ANIMATIONS)}", str(path))
    milliseconds = round(1000 / check_positive("fps", fps))
    images = _enlarged(images, scale)
    first, *others = map(pillow_image, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        lossless=True,
    )


def png_bytes(image: npt.ArrayLike, **options) -> bytes:
    """Return the content of a PNG file of an image.

    Args:
        image: uint8 array `(height, width, channels)`. There may be 1 channel,
            3, or 4, the last of which is opacity; or uint16 of 1 channel.
        **options: of Pillow, such as `compress_level`.

    Raises:
        ValueError: if it is anything else.
    """
    file = io.BytesIO()
    pillow_image(image).save(file, "PNG", **options)
    return file.getvalue()


def pillow_image(image):
    """Return a Pillow image of an array as `png_bytes` takes it."""
    channels = {"uint8": (1, 3, 4), "uint16": (1,)}.get(image.dtype.name, ())
    if image.ndim != 3 or image.shape[-1] not in channels:
        refuse("image", "uint8 (height, width, 1, 3 or 4 channels)", image)
    # Pillow knows a single channel as an array of two dimensions only.
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
