"""How any flow over images is used, whatever its layers are."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_glow.backend.keras_internals import only_calls_of
from keras_glow.checks import (
    check_images,
    check_integer,
    check_labels,
    check_latents,
    check_seed,
    refuse,
)
from keras_glow.flow.encoder import FlowModel
from keras_glow.flow.noise import (
    keyed_generators,
    new_seed,
    standard_deviations,
    standard_normal,
    uniform,
)
from keras_glow.flow.pixels import dequantize, quantize
from keras_glow.flow.prediction import Rows, predict

SAMPLES_AT_ONCE = 1024  # largest number of latents that `sample` holds
MAX_SAMPLE_BYTES = 2**34  # 16 GiB


class _Listed:
    """A model for `keras.Model.summary`, which lists these layers of it."""

    def __init__(self, model, layers):
        self._model, self.layers = model, layers

    def __getattr__(self, name):
        return getattr(self._model, name)


class ImageFlow(keras.Model):
    """Encodes, decodes, scores and draws integer images by a flow.

    A subclass builds the flow and sets the attributes. Public methods check
    their arguments once; see `keras_glow.Glow` for what they share.

    Attributes:
        image_shape: (height, width, channels).
        dimensions: int, D: height x width x channels.
        bits: int 1..8, bits per subpixel.
        num_classes: int, or None.
        latent_shapes: shape of each level's latent, in the order of z.
        encoder: functional keras.Model, continuous image to z `(batch, D)`.
        scorer: functional keras.Model, continuous image to its log-density
            `(batch,)` in nats.
        decoder: functional keras.Model, z to continuous image.
    """

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
            images: integers 0..255, `(batch, height, width, channels)`.
            seed: int 0..2**32 - 1 for reproducible noise, None for new noise
                each time, `"center"` for the centre of the bin.

        Returns:
            Float array of the same shape.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        seed = check_seed(seed, or_center=True)
        x = self._dequantized(check_images(images, self.image_shape), seed)
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
        """Maps continuous images to uint8, each value to the bin that holds it.

        Raises:
            ValueError: if a value is no number, or not finite.
        """
        return quantize(x, self.bits)

    def encode(
        self,
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Returns the latents of images, taken at the centre of their bins.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            labels: int array `(batch,)`.
            batch_size: int, images that are encoded at once.

        Returns:
            Float array `(batch, D)`, all levels, standardised; `(0, D)` if
            there are no images.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        images = check_images(images, self.image_shape)
        labels = check_labels(labels, len(images), self.num_classes)
        x = self._dequantized(images, "center")
        return predict(self.encoder, x, labels, batch_size)

    def decode(
        self,
        z: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Returns the images of latents: the inverse of `encode`, to the pixel.

        Args:
            z: finite float array `(batch, D)`.
            labels: int array `(batch,)`.
            batch_size: int, images that are decoded at once.

        Returns:
            uint8 array `(batch, height, width, channels)`.

        Raises:
            ValueError: naming the argument that is not as described; if an
                image is not finite.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        z = check_latents(z, self.dimensions, self.dtype)
        labels = check_labels(labels, len(z), self.num_classes)
        return self.quantize(predict(self.decoder, z, labels, batch_size))

    def sample(
        self,
        count: int,
        temperature: float | Sequence[float] = 0.7,
        seed: int | None = None,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
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

        Returns:
            uint8 array `(count, height, width, channels)`.

        Raises:
            ValueError: if an argument is not as described.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed)
        deviations = standard_deviations(temperature, self.latent_shapes)
        high = MAX_SAMPLE_BYTES // math.prod(self.image_shape)
        try:
            count = check_integer("count", count, 0, high)
            images = np.empty((count, *self.image_shape), "uint8")
        except (ValueError, MemoryError):
            expected = (
                f"an integer 0..{high}, as many images as fit into 16 GiB"
            )
            refuse("count", f"{expected} and into memory", count)
        if labels is not None:
            if np.ndim(labels) == 0:
                labels = np.full(count, labels)
            labels = check_labels(labels, count, self.num_classes)
        if seed is None:
            seed = new_seed()
        # Chunks are whole batches, so that their ends make no difference.
        chunk = -(-SAMPLES_AT_ONCE // batch_size) * batch_size
        for start in range(0, count, chunk):
            numbers = np.arange(start, min(start + chunk, count))
            images[numbers] = self._draw(
                numbers, deviations, seed, labels, batch_size
            )
        return images

    def _draw(self, numbers, deviations, seed, labels, batch_size):
        if labels is not None:
            labels = labels[numbers]
        elif self.num_classes is not None:
            generators = keyed_generators(seed, numbers, stream=1)
            labels = [rng.integers(self.num_classes) for rng in generators]
            labels = np.array(labels, "int32")

        def make(rows):
            shape = len(rows), self.dimensions
            z = standard_normal(shape, seed, numbers=numbers[rows])
            return (z * deviations).astype(self.dtype)

        z = Rows(len(numbers), make)
        return self.quantize(predict(self.decoder, z, labels, batch_size))

    # These methods compute the likelihood.

    def log_prob(
        self,
        images: npt.ArrayLike,
        draws: int = 1,
        seed: int | str | None = None,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Returns a lower bound of images' discrete log-likelihood, in nats.

        The density times the volume of a bin is averaged (`log mean exp`) over
        draws of dequantisation noise: more draws tighten the bound.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            draws: int >= 1.
            seed: int 0..2**32 - 1 for reproducible noise, `"center"` for none,
                or None for new noise each time.
            labels: int array `(batch,)`.
            batch_size: int, images that are encoded at once.

        Returns:
            Float array `(batch,)`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        draws = check_integer("draws", draws, 1)
        batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed, or_center=True)
        images = check_images(images, self.image_shape)
        labels = check_labels(labels, len(images), self.num_classes)
        log_probs = np.empty((draws, len(images)))
        for draw in range(draws):
            x = self._dequantized(images, seed, draw)
            log_probs[draw] = predict(self.scorer, x, labels, batch_size)
        bound = np.logaddexp.reduce(log_probs) - math.log(draws)
        volume = -self.dimensions * self.bits * math.log(2)
        return (bound + volume).astype(self.dtype)

    def bits_per_dim(self, images: npt.ArrayLike, **kwargs) -> np.ndarray:
        """Returns `-log_prob / (D log 2)`, float `(batch,)`: lower is better.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            **kwargs: arguments of `log_prob`.
        """
        log_prob = self.log_prob(images, **kwargs)
        return -log_prob / (self.dimensions * math.log(2))
