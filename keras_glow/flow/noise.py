"""Noise from a seed: the same on every backend, for every batch of images."""

import math

import numpy as np
from keras import ops

from keras_glow.checks import check_floats, refuse
from keras_glow.flow.pixels import NOISE_STEPS


def keyed_generators(seed, numbers, stream=0):
    """Returns an independent random generator for each image, by its number.

    Generator i is a function of `(seed, stream, i)` alone, so what is drawn for
    an image does not depend on how many are drawn beside it. A `seed` of None
    draws one.
    """
    if seed is None:
        seed = new_seed()
    return (np.random.default_rng([seed, stream, i]) for i in numbers)


def new_seed():
    """Returns an unpredictable seed, without any global generator."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def standard_normal(shape, seed, stream=0, numbers=None):
    """Draws standard normal numbers, float32, see `keyed_generators`.

    The first axis of their `shape` is images, numbered from 0 by default.
    """
    return _draw("standard_normal", shape, seed, stream, numbers)


def uniform(shape, seed, stream=0, numbers=None):
    """Draws noise in [0, 1); see `standard_normal`."""
    return _draw("random", shape, seed, stream, numbers)


def _draw(method, shape, seed, stream, numbers):
    values = np.empty(shape, "float32")
    numbers = range(len(values)) if numbers is None else numbers
    generators = keyed_generators(seed, numbers, stream)
    for row, rng in zip(values, generators, strict=True):
        row[:] = getattr(rng, method)(row.shape, "float32")
    return values


def standard_deviations(temperature, latent_shapes):
    """Returns the standard deviation of each latent, float32 `(D,)`.

    Raises:
        ValueError: if the temperature is not as `ImageFlow.sample` says.
    """
    levels = len(latent_shapes)
    expected = f"a number >= 0, or a sequence of {levels}, one per level"
    values = check_floats("temperature", temperature, expected)
    with np.errstate(over="ignore"):
        values = values.astype("float32")
    if values.ndim == 0:
        values = np.full(levels, values)
    if values.shape != (levels,) or not np.all(
        (values >= 0) & (values < np.inf)
    ):
        refuse("temperature", expected, temperature)
    return np.repeat(values, [math.prod(shape) for shape in latent_shapes])


class IndexedNoise:
    """Noise in [0, 1) for image i of a test, a function of `(seed, i)` alone.

    It is `frac(start + i * step)` for each subpixel, with a random start and a
    random step: a Kronecker sequence, uniform over the images of each subpixel.
    Unlike a generator, it runs inside a compiled program on every backend and
    does not depend on the batches. Unlike the same noise for all images, it
    gives an average that improves with their number. It repeats after 65,536
    images.
    """

    def __init__(self, image_shape, seed):
        rng = np.random.default_rng(seed)
        # Integers are exact at any i. An odd step is coprime to 2**16, so the
        # sequence visits every noise value.
        start = rng.integers(NOISE_STEPS, size=(1, *image_shape))
        step = 2 * rng.integers(NOISE_STEPS // 4, size=(1, *image_shape)) + 1
        self.start, self.step = start.astype("int32"), step.astype("int32")

    def __call__(self, indices, dtype):
        """Returns the noise of images by number, `(count, *image_shape)`."""
        indices = ops.cast(indices, "int32") % int(NOISE_STEPS)
        indices = ops.reshape(indices, (-1, 1, 1, 1))
        # Torch cannot add a NumPy array to a tensor.
        start, step = map(ops.convert_to_tensor, (self.start, self.step))
        points = (start + indices * step) % int(NOISE_STEPS)
        return ops.cast(points, dtype) / NOISE_STEPS
