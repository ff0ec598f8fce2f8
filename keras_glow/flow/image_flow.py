"""How any flow over images is used, whatever its layers are."""

import math
from collections.abc import Iterable, Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_glow.backend.keras_internals import (
    PassesTrainableOn,
    only_calls_of,
)
from keras_glow.checks import (
    Conditions,
    ImageFormat,
    check_images,
    check_integer,
    check_latents,
    check_seed,
    refuse,
)
from keras_glow.flow.architecture import given_to
from keras_glow.flow.encoder import FlowModel
from keras_glow.flow.log_prob_map import mapper
from keras_glow.flow.noise import (
    keyed_generators,
    new_seed,
    standard_deviations,
    standard_normal,
    uniform,
)
from keras_glow.flow.pixels import dequantize, quantize
from keras_glow.flow.prediction import Rows, predict
from keras_glow.layers.sequence import Given

SAMPLES_AT_ONCE = 1024  # largest number of latents that `sample` holds
MAX_SAMPLE_BYTES = 2**34  # 16 GiB


class _Listed:
    """A model for `keras.Model.summary`, which lists these layers of it."""

    def __init__(self, model, layers):
        self._model, self.layers = model, layers

    def __getattr__(self, name):
        return getattr(self._model, name)


class ImageFlow(PassesTrainableOn, keras.Model):
    """Encodes, decodes, scores and draws integer images by a flow.

    A subclass builds the flow and sets the attributes. `keras_glow.Glow` says
    what the public methods share; they check their arguments once.

    Attributes:
        image_shape, bits, num_classes, context_shape: as given to `Glow`.
        bijections, latent_shapes, encoder, decoder: see `Glow`.
        dimensions: int, D: height x width x channels.
        context_networks: the `ContextNetwork` of each level, or none.
        scorer: functional keras.Model, continuous image to its log-density
            `(batch,)` in nats.
    """

    @property
    def conditions(self):
        """What has to be known about images, a `Conditions`."""
        return Conditions(self.num_classes, self.context_shape)

    def given(self, conditions: Iterable) -> Given:
        """Returns the `Given` for `bijections` of arrays of `conditions`."""
        tensors = map(ops.convert_to_tensor, conditions)
        return given_to(self.context_networks, self.conditions, tensors)

    @property
    def image_format(self):
        """The images that it takes, an `ImageFormat`."""
        return ImageFormat(self.image_shape, self.bits)

    @property
    def bin_nats(self):
        """Minus the logarithm of the volume of an image's bin; 0 for floats."""
        return self.dimensions * (self.bits or 0) * math.log(2)

    def summary(self, *args, **kwargs) -> None:
        # Encoder, scorer and decoder are made of the other layers.
        layers = [
            layer for layer in self.layers if not isinstance(layer, FlowModel)
        ]
        with only_calls_of(None, layers):
            keras.Model.summary(_Listed(self, layers), *args, **kwargs)

    # These methods map images to latents and back.

    def dequantize(
        self, images: npt.ArrayLike, seed: int | str | None = None
    ) -> np.ndarray:
        """Adds noise inside the bin: continuous images in [-0.5, 0.5).

        Args:
            images: `(batch, height, width, channels)`.
            seed: int 0..2**32 - 1 for reproducible noise, None for new noise
                each time, `"center"` for the centre of the bin.

        Returns:
            Float array of the same shape.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        seed = check_seed(seed, or_center=True)
        x = self._dequantized(check_images(images, self.image_format), seed)
        return ops.convert_to_numpy(x[np.arange(len(x))])

    def _dequantized(self, images, seed, draw=0):
        """Returns `Rows` of continuous images, tensors."""
        if seed is None:
            seed = new_seed()

        def make(rows):
            part, noise = images[rows], 0.5
            if seed != "center":
                # Streams 0 and 1 of a seed draw latents and labels.
                noise = uniform(part.shape, seed, 2 + draw, rows)
            return dequantize(part, ops.cast(noise, self.dtype), self.bits)

        return Rows(len(images), make)

    def quantize(self, x: npt.ArrayLike) -> np.ndarray:
        """Maps continuous images to pixels, each value to its bin.

        Raises:
            ValueError: if a value is no number, or not finite.
        """
        return quantize(x, self.bits)

    def encode(
        self,
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
        context: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Returns the latents of images, taken at the centre of their bins.

        Args:
            images: `(batch, height, width, channels)`.
            labels: int array `(batch,)`.
            batch_size: int, images that are encoded at once.
            context: array `(batch, *context_shape)`.

        Returns:
            Float array `(batch, D)`, all levels, standardised; `(0, D)` if
            there are no images.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        images = check_images(images, self.image_format)
        given = self.conditions.check(labels, context, len(images))
        x = self._dequantized(images, "center")
        return predict(self.encoder, x, given, batch_size)

    def decode(
        self,
        z: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
        context: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Returns the images of latents: the inverse of `encode`, to the pixel.

        Args:
            z: finite float array `(batch, D)`.
            labels: int array `(batch,)`.
            batch_size: int, images that are decoded at once.
            context: array `(batch, *context_shape)`.

        Returns:
            Array `(batch, height, width, channels)`, as images are.

        Raises:
            ValueError: naming the argument that is not as described; if an
                image is not finite.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        z = check_latents(z, self.dimensions, self.dtype)
        given = self.conditions.check(labels, context, len(z))
        return self.quantize(predict(self.decoder, z, given, batch_size))

    def sample(
        self,
        count: int,
        temperature: float | Sequence[float] = 0.7,
        seed: int | None = None,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
        context: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Draws images.

        Image i of a seed is always the same, however many are drawn. The images
        are held in memory, and the latents of about 1,024 of them.

        Args:
            count: int >= 0; at most as many as take 16 GiB.
            temperature: float >= 0 that scales the standard deviation of the
                latents of every level, or a sequence of them, one per level,
                finest first. 0 gives the mode, 1 the model's distribution.
            seed: int 0..2**32 - 1, or None for other images each time.
            labels: int array `(count,)`, or one int for all; None draws
                them uniformly (only with `num_classes`).
            batch_size: int, images that are decoded at once.
            context: array `(count, *context_shape)`, or `context_shape` for
                all.

        Returns:
            Array `(count, height, width, channels)`, as images are.

        Raises:
            ValueError: if an argument is not as described.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed)
        deviations = standard_deviations(temperature, self.latent_shapes)
        pixel = np.dtype(self.image_format.dtype)
        high = MAX_SAMPLE_BYTES // self.dimensions // pixel.itemsize
        try:
            count = check_integer("count", count, 0, high)
            images = np.empty((count, *self.image_shape), pixel)
        except (ValueError, MemoryError):
            expected = (
                f"an integer 0..{high}, as many images as fit into 16 GiB"
            )
            refuse("count", f"{expected} and into memory", count)
        if seed is None:
            seed = new_seed()
        if labels is None and self.num_classes is not None:
            generators = keyed_generators(seed, np.arange(count), stream=1)
            labels = [rng.integers(self.num_classes) for rng in generators]
            labels = np.array(labels, "int32")
        given = self.conditions.check_each_or_one(labels, context, count)
        # Chunks are whole batches, so that their ends make no difference.
        chunk = -(-SAMPLES_AT_ONCE // batch_size) * batch_size
        for start in range(0, count, chunk):
            numbers = np.arange(start, min(start + chunk, count))
            images[numbers] = self._draw(
                numbers,
                deviations,
                seed,
                [array[numbers] for array in given],
                batch_size,
            )
        return images

    def _draw(self, numbers, deviations, seed, given, batch_size):
        def make(rows):
            shape = len(rows), self.dimensions
            z = standard_normal(shape, seed, numbers=numbers[rows])
            return (z * deviations).astype(self.dtype)

        z = Rows(len(numbers), make)
        return self.quantize(predict(self.decoder, z, given, batch_size))

    # These methods compute the likelihood.

    def log_prob(
        self,
        images: npt.ArrayLike,
        draws: int = 1,
        seed: int | str | None = None,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
        context: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Returns a lower bound of images' discrete log-likelihood, in nats.

        The density times the volume of a bin is averaged (`log mean exp`) over
        draws of dequantisation noise: more draws tighten the bound.

        Args:
            images: `(batch, height, width, channels)`.
            draws: int >= 1.
            seed: int 0..2**32 - 1 for reproducible noise, `"center"` for none,
                or None for new noise each time.
            labels: int array `(batch,)`.
            batch_size: int, images that are encoded at once.
            context: array `(batch, *context_shape)`.

        Returns:
            Float array `(batch,)`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        log_probs = self._log_probs(
            self.scorer, images, draws, seed, labels, batch_size, context
        )
        return _log_mean_exp(log_probs).astype(self.dtype)

    def log_prob_map(self, images: npt.ArrayLike, **kwargs) -> np.ndarray:
        """Returns where the log-likelihood of images comes from, in nats.

        The sum over an image is its `log_prob`. The log-density of each latent
        and what each layer adds to the log-determinant are counted at their
        place; those of a coarser level are shared equally by the pixels that a
        place stands for. Low values are where the image is unlike the training
        images.

        Args:
            images: `(batch, height, width, channels)`.
            **kwargs: arguments of `log_prob`. Of several draws each counts by
                its share of their mean. All of them are held in memory.

        Returns:
            Float array `(batch, height, width)`.
        """
        maps = self._log_probs(mapper(self), images, **kwargs)
        log_probs = maps.sum((2, 3))
        bound = _log_mean_exp(log_probs)
        shares = np.exp(log_probs - bound) / len(maps)
        log_prob_map = np.einsum("db,dbhw->bhw", shares, maps)
        rest = (bound - log_prob_map.sum((1, 2))) / math.prod(maps.shape[2:])
        return (log_prob_map + rest[:, None, None]).astype(self.dtype)

    def _log_probs(
        self,
        model,
        images,
        draws=1,
        seed=None,
        labels=None,
        batch_size=32,
        context=None,
    ):
        """Returns what a model gives for each draw: `(draws, batch, ...)`."""
        draws = check_integer("draws", draws, 1)
        batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed, or_center=True)
        images = check_images(images, self.image_format)
        given = self.conditions.check(labels, context, len(images))
        shape = model.output_shape[1:]
        log_probs = np.empty((draws, len(images), *shape))
        for draw in range(draws):
            x = self._dequantized(images, seed, draw)
            log_probs[draw] = predict(model, x, given, batch_size)
        return log_probs - self.bin_nats / math.prod(shape)

    def bits_per_dim(self, images: npt.ArrayLike, **kwargs) -> np.ndarray:
        """Returns `-log_prob / (D log 2)`, float `(batch,)`: lower is better.

        Floats (`bits=None`) have a density, which no number of bits encodes.

        Args:
            images: `(batch, height, width, channels)`.
            **kwargs: arguments of `log_prob`.
        """
        if self.bits is None:
            refuse("bits", "an integer for bits_per_dim", self.bits)
        log_prob = self.log_prob(images, **kwargs)
        return -log_prob / (self.dimensions * math.log(2))


def _log_mean_exp(values):
    """Returns the logarithm of the mean over the first axis."""
    return np.logaddexp.reduce(values) - math.log(len(values))
