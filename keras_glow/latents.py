"""Latents and noise of a seed: the same on every backend, for every batch."""

import math

import numpy as np


def keyed_generators(seed, count, stream=0):
    """One independent random generator for each of `count` images.

    Generator i is a function of `(seed, stream, i)` alone, so what is drawn for
    an image does not depend on how many are drawn beside it.

    Args:
        seed: int >= 0, or None to draw one.
        count: int.
        stream: int, to draw something else from the same seed.

    Raises:
        ValueError: if the seed is negative.
    """
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    if seed < 0:
        raise ValueError(
            f"`seed` is expected to be >= 0. Received: seed={seed}"
        )
    return (np.random.default_rng([seed, stream, i]) for i in range(count))


def standard_normal(count, dimensions, seed):
    """Standard normal latents, float32 `(count, dimensions)`."""
    z = np.empty((count, dimensions), "float32")
    for row, rng in zip(z, keyed_generators(seed, count), strict=True):
        row[:] = rng.standard_normal(dimensions, "float32")
    return z


def uniform(shape, seed, stream=0):
    """Uniform noise in [0, 1), float32 `shape`, whose first axis is images."""
    noise = np.empty(shape, "float32")
    generators = keyed_generators(seed, len(noise), stream)
    for image, rng in zip(noise, generators, strict=True):
        image[:] = rng.random(image.shape, "float32")
    return noise


def standard_deviations(temperature, latent_shapes):
    """The standard deviation of each latent at a temperature.

    Args:
        temperature: float >= 0, or a sequence of them, one per level, finest
            level first.
        latent_shapes: shape of each level's latent, finest level first.

    Returns:
        float32 array `(D,)`.

    Raises:
        ValueError: if a temperature is negative or not finite, or if a
            sequence has not one for each level.
    """
    levels = len(latent_shapes)
    try:
        values = np.array(temperature, "float32")
        if values.ndim == 0:
            values = np.full(levels, values)
        valid = np.all((values >= 0) & np.isfinite(values))
    except (TypeError, ValueError):
        valid = False
    if not valid or values.shape != (levels,):
        raise ValueError(
            "`temperature` is expected to be a number >= 0, or a sequence of "
            f"{levels}, one per level. Received: temperature={temperature!r}"
        )
    return np.repeat(values, [math.prod(shape) for shape in latent_shapes])
