"""Writes images as PNG files, and many images as one grid."""

import io
import pathlib

import numpy as np
from PIL import Image

from keras_glow.checks import refuse


def image_grid(images, columns=None, padding=2):
    """Lay out images row by row, pixels as they are, with white between them.

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


def save_grid(images, path, columns=None, padding=2):
    """Write `image_grid(images, columns, padding)` as a PNG file."""
    save_image(image_grid(images, columns, padding), path)


def save_image(image, path):
    """Write an image as a PNG file. Missing folders are made.

    Args:
        image: see `png_bytes`.
        path: of the file.

    Raises:
        ValueError: see `png_bytes`.
    """
    content = png_bytes(image)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def png_bytes(image, **options):
    """Return the content of a PNG file of an image.

    Args:
        image: uint8 array `(height, width, channels)`. There may be 1 channel,
            3, or 4, the last of which is opacity.
        **options: of Pillow, such as `compress_level`.

    Raises:
        ValueError: if there is another number of channels.
    """
    if image.shape[-1] not in (1, 3, 4):
        refuse("image", "of 1, 3 or 4 channels to be a PNG", image)
    # Pillow knows a single channel as an array of two dimensions only.
    image = image[..., 0] if image.shape[-1] == 1 else image
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()
