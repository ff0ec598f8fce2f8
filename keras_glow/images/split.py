"""Sets images apart for validation, and tells which are on both sides."""

import hashlib

import numpy as np

from keras_glow.checks import refuse


def pixel_digests(images):
    """Return a digest of the pixels of each image, a list of bytes."""
    return [hashlib.sha256(image.tobytes()).digest() for image in images]


def held_out(images, share):
    """Choose images to validate on, the same ones whenever it is called.

    Those with the smallest digests are taken: neither the order of the images
    nor their names count, equal images stay on one side, and few change sides
    when others are added.

    Args:
        images: array `(count, height, width, channels)`.
        share: float between 0 and 1, the part of them to choose.

    Returns:
        bool array `(count,)`.

    Raises:
        ValueError: if there are too few different images for both sides.
    """
    digests = pixel_digests(images)
    last = sorted(digests)[max(1, round(share * len(digests))) - 1]
    chosen = np.array([digest <= last for digest in digests])
    if chosen.all():
        refuse("images", f"enough to hold out {share:.1%} of them", images)
    return chosen


def count_shared(images, others):
    """Return how many images of `others` are among `images`, pixel by pixel."""
    known = set(pixel_digests(images))
    return sum(digest in known for digest in pixel_digests(others))
