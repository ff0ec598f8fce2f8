"""Writes images as the frames of an animation."""

import os
import pathlib

import numpy as np
import numpy.typing as npt

from keras_glow.checks import check_positive, refuse
from keras_glow.images.grid import pillow_image

ANIMATIONS = (".gif", ".webp")


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
    images = np.repeat(np.repeat(images, scale, axis=1), scale, axis=2)
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
