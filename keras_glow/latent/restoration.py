"""Restores images of which only a part, or a small version, is known."""

import math
import typing

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_glow.backend import compile_function, differentiate
from keras_glow.checks import (
    ImageFormat,
    check_images,
    check_integer,
    check_positive,
    check_seed,
    refuse,
)
from keras_glow.data import padded_batches
from keras_glow.flow.noise import standard_normal
from keras_glow.flow.pixels import dequantize
from keras_glow.flow.prediction import predict, with_conditions

# Settings of the first, coarse search. It treats the known pixels as noisier
# than they are; otherwise large structures would hardly move.
COARSE_SIGMA = 16.0  # grey levels
COARSE_LEARNING_RATE = 0.1


class Convergence(typing.NamedTuple):
    """Tells whether the search for latents has converged.

    Attributes:
        loss: float32 `(steps + 1, batch, draws)`, the loss of the second
            search, in nats, before each step and after the last. If it still
            fell well past the middle, more steps would help.
        error: float32 `(batch, draws)`, root mean square difference of the
            images that were found from the known pixels, in grey levels, before
            these were put in place. It should be about sigma.
    """

    loss: np.ndarray
    error: np.ndarray


def inpaint(
    model: keras.Model,
    images: npt.ArrayLike,
    known: npt.ArrayLike,
    draws: int = 1,
    labels: npt.ArrayLike | None = None,
    context: npt.ArrayLike | None = None,
    **search,
) -> tuple[np.ndarray, Convergence]:
    """Fill in unknown pixels, several times over.

    Latents are drawn by randomised maximum likelihood: a random image and
    random errors of the known pixels y are drawn, and Adam searches for the z
    nearest to both, which minimises

    `|z - z0|^2 / (2 temperature^2) + |known(x(z)) - y0|^2 / (2 sigma^2)`,
    `z0 ~ N(0, temperature^2)`, `y0 ~ N(y, sigma^2)`.

    There are two searches. The first starts from z0, with a sigma of 16 grey
    levels or more, and finds the coarse structure. Then the known pixels are
    put into the image that it found, and the second search starts from there.

    If x is a linear function of z, these are independent samples of the exact
    posterior. A Glow is not linear: its samples are approximate.

    Args:
        model: a `Glow` with 8 bits at most.
        images: integers 0..255, `(batch, height, width, channels)`; unknown
            pixels may have any value.
        known: bools `(height, width)`, or `(batch, height, width)`.
        draws: int >= 1, for each image.
        labels: int array `(batch,)`, for a model with classes.
        context: array `(batch, *context_shape)`, for a model with a context.
        **search: `sigma`, float > 0, the error of the known pixels in grey
            levels (1.0): the smaller, the harder is the search, and the larger,
            the more visible is the seam; `temperature`, float > 0, of the draws
            (0.7); `steps`, int >= 1, of each search (100); `learning_rate`,
            float > 0, of the second, in units of z (0.01): it falls to 0 by
            half a cosine;
            `seed`, int 0..2**32 - 1, or None for other draws each time;
            `batch_size`, int, draws that are searched for at once (32).

    Returns:
        Tuple of uint8 images `(batch, draws, height, width, channels)`, whose
        known pixels are those of `images` exactly, and of a `Convergence`.

    Raises:
        ValueError: naming the argument that is not as described.

    Reference:
        Oliver, He and Reynolds, 1996, Conditioning Permeability Fields to
        Pressure Data; Bardsley et al., 2014, Randomize-then-Optimize,
        https://doi.org/10.1137/140964023
    """
    if model.bits is None or model.bits > 8:
        refuse("model.bits", "1..8", model.bits)
    x = model.dequantize(images, seed="center")
    known = _check_known(known, x.shape[:3])
    run = _Search(model, x, known, 1, draws, labels, context, **search).run
    drawn, convergence = run()
    given = model.quantize(x)
    return np.where(known[:, None], given[:, None], drawn), convergence


def super_resolve(
    model: keras.Model,
    images: npt.ArrayLike,
    draws: int = 1,
    labels: npt.ArrayLike | None = None,
    context: npt.ArrayLike | None = None,
    **search,
) -> tuple[np.ndarray, Convergence]:
    """Enlarge images to the size of the model, several times over.

    It works like `inpaint`, except that the means of blocks of pixels are
    known.

    Args:
        model: a `Glow` with 8 bits.
        images: integers 0..255, `(batch, height / f, width / f, channels)`,
            with an integer f >= 2.
        draws: int >= 1, for each image.
        labels: int array `(batch,)`, for a model with classes.
        context: array `(batch, *context_shape)`, for a model with a context.
        **search: see `inpaint`.

    Returns:
        Tuple of uint8 images `(batch, draws, height, width, channels)`, each
        f x f block of which has exactly the given mean, and of a `Convergence`.

    Raises:
        ValueError: naming the argument that is not as described.
    """
    if model.bits != 8:
        refuse("model.bits", "8", model.bits)
    images, factor = _check_small(images, model.image_shape)
    y = ops.convert_to_numpy(dequantize(images, np.float32(0.5)))
    known = np.ones((1, 1, 1, 1), bool)
    run = _Search(model, y, known, factor, draws, labels, context, **search).run
    drawn, convergence = run()
    return _with_block_means(drawn, images[:, None], factor), convergence


class _Search:
    """Draws images whose block means are y where `known`; see `inpaint`."""

    def __init__(
        self,
        model,
        y,
        known,
        factor,
        draws,
        labels,
        context,
        sigma=1.0,
        temperature=0.7,
        steps=100,
        learning_rate=0.01,
        seed=None,
        batch_size=32,
    ):
        self.model = model
        self.factor = factor
        self.shape = len(y), check_integer("draws", draws, 1)
        given = model.conditions.check(labels, context, len(y))
        self.sigma = check_positive("sigma", sigma)
        self.temperature = check_positive("temperature", temperature)
        self.steps = check_integer("steps", steps, 1)
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed)
        count = math.prod(self.shape)
        rows = np.arange(count) // draws
        self.given = [array[rows] for array in given]
        self.known = np.broadcast_to(known, y.shape)[rows].astype(model.dtype)
        self.y = y[rows]
        self.loss_and_gradient = compile_function(self._loss_and_gradient)
        # Each draw is to be near to these two.
        z0 = temperature * standard_normal((count, model.dimensions), seed)
        self.z0 = z0.astype(model.dtype)
        y0 = self.y + sigma / 256 * standard_normal(self.y.shape, seed, 1)
        self.y0 = y0.astype(model.dtype)

    def run(self):
        """Return uint8 images `(batch, draws, ...)` and a `Convergence`."""
        sigma = max(COARSE_SIGMA, self.sigma)
        z, _ = self._minimise(self.z0, sigma, COARSE_LEARNING_RATE)
        x = self._predict(self.model.decoder, z)
        missing = self._errors(x, self.y0, self.known)
        missing = ops.convert_to_numpy(missing).repeat(self.factor, axis=1)
        x = x + missing.repeat(self.factor, axis=2)
        z = self._predict(self.model.encoder, x)
        z, losses = self._minimise(z, self.sigma, self.learning_rate)
        x = self._predict(self.model.decoder, z)
        axes = (1, 2, 3)
        errors = self._errors(x, self.y, self.known)
        errors = 256 * ops.convert_to_numpy(errors)
        error = np.sqrt(np.sum(errors**2, axes) / np.sum(self.known, axes))
        return (
            self.model.quantize(x).reshape(*self.shape, *x.shape[1:]),
            Convergence(
                losses.reshape(-1, *self.shape), error.reshape(self.shape)
            ),
        )

    def _minimise(self, z, sigma, learning_rate):
        """Return the latents that Adam finds from z, and the losses."""
        sigma = ops.convert_to_tensor(sigma, z.dtype)
        arrays = z, self.z0, self.y0, self.known, *self.given
        latents = np.empty_like(z)
        losses = np.empty((self.steps + 1, len(z)), "float32")
        for rows in padded_batches(len(z), self.batch_size):
            start, *rest = (ops.convert_to_tensor(a[rows]) for a in arrays)
            variable = keras.Variable(start, dtype=z.dtype)
            optimizer = keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(
                    learning_rate, self.steps
                )
            )
            optimizer.build([variable])
            for step in range(self.steps + 1):
                loss, gradient = self.loss_and_gradient(
                    variable.value, sigma, *rest
                )
                losses[step, rows] = ops.convert_to_numpy(loss)
                if step < self.steps:
                    optimizer.apply([gradient])
            latents[rows] = ops.convert_to_numpy(variable)
        return latents, losses

    def _loss_and_gradient(self, z, sigma, z0, y0, known, *given):
        def loss(z):
            x = self.model.decoder(with_conditions(z, given))
            distances = ops.square((z - z0) / self.temperature)
            misfits = ops.square(256 * self._errors(x, y0, known) / sigma)
            nats = ops.sum(distances, axis=1) + ops.sum(misfits, axis=(1, 2, 3))
            return (nats / 2,), nats / 2

        nats, (gradient,) = differentiate(loss, [z], (ops.ones_like(z[:, 0]),))
        return nats, gradient

    def _errors(self, x, y, known):
        """Return by how much the block means of x miss y, 0 where unknown."""
        x, y, known = map(ops.convert_to_tensor, (x, y, known))
        size = self.factor
        # Strides are written out: without, Keras 3.15 gets them wrong on JAX.
        means = ops.average_pool(x, size, size, data_format="channels_last")
        return (y - means) * known

    def _predict(self, model, inputs):
        size = min(self.batch_size, len(inputs))
        return predict(model, inputs, self.given, size)


def _check_known(known, shape):
    """Return bools `(batch or 1, height, width, 1)`, some true in each."""
    expected = f"bools of the shape {shape[1:]} or {shape}, not all False"
    array = known if isinstance(known, np.ndarray) else np.asarray(known)
    if (
        array.dtype.kind != "b"
        or array.shape not in (shape, shape[1:])
        or not np.all(np.any(array, axis=(-2, -1)))
    ):
        refuse("known", expected, known)
    return array.reshape(-1, *shape[1:], 1)


def _check_small(images, image_shape):
    """Return the small images, and the factor to enlarge them by."""
    height, width, channels = image_shape
    rows = np.shape(images)[1] if np.ndim(images) == 4 else 0
    factor = height // rows if rows else 0
    if factor < 2 or height % factor or width % factor:
        refuse(
            "images",
            f"4-dimensional, {height} x {width} divided by an integer >= 2",
            images,
        )
    small = (height // factor, width // factor, channels)
    return check_images(images, ImageFormat(small)), factor


def _with_block_means(images, means, factor):
    """Move pixels by as few levels as it takes to give blocks their means.

    Args:
        images: uint8 `(..., height, width, channels)`.
        means: integers `(..., height / factor, width / factor, channels)`.
        factor: int.
    """
    *rest, height, width, channels = images.shape
    shape = (*rest, height // factor, factor, width // factor, factor, channels)
    blocks = np.moveaxis(images.reshape(shape).astype("int64"), -4, -2)
    shape = blocks.shape
    pixels = blocks.reshape(*shape[:-3], factor**2, channels)
    while True:
        missing = np.expand_dims(
            means.astype("int64"), -2
        ) * factor**2 - pixels.sum(axis=-2, keepdims=True)
        if not missing.any():
            break
        free = np.where(missing > 0, pixels < 255, pixels > 0)
        # The first of those that can still be moved move by one level each.
        moved = free & (np.cumsum(free, axis=-2) <= np.abs(missing))
        pixels += np.sign(missing) * moved
    blocks = np.moveaxis(pixels.reshape(shape), -2, -4)
    return blocks.reshape(images.shape).astype("uint8")
