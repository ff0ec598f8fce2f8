"""The learned prior of the last latents, as a bijection."""

import math

import keras
from keras import ops

from keras_glow.layers.bijection import IMAGE, Bijection
from keras_glow.layers.convolution import add_context_kernel, pointwise
from keras_glow.layers.split import MAX_LOG_SIGMA


@keras.saving.register_keras_serializable(package="keras_glow")
class GaussianPrior(Bijection):
    """Standardises the top latents by a learned mean and scale per dimension.

    - Forward: `z = (x - mu) / sigma`
    - Inverse: `x = mu + sigma * z`
    - Log-determinant: `-sum(log_sigma)`

    To map a latent that should be N(mu, sigma) to one that should be N(0, 1)
    is to learn the prior: the log-determinant holds the difference.

    Args:
        num_classes: int, or None. With it, mu and log_sigma are learned for
            each class, and the inputs are `[x, labels]`.
        context_channels: int, or None. With it a 1x1 convolution of a context
            is added, which follows the inputs, see `Coupling`; with a context
            of height and width 1, another linear map for each position.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, or the list
            of it and an integer tensor `(batch,)` of labels. A context comes
            last.

    Returns:
        Tensor `(batch, height, width, channels)`.

    Reference:
        The learned top prior of https://github.com/openai/glow, there a
        convolution of a constant
    """

    input_ranks = (IMAGE,)

    def __init__(
        self,
        num_classes: int | None = None,
        context_channels: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self._take_labels(num_classes)
        self._take_context(context_channels)

    def _check_shapes(self, shapes, inverse):
        super()._check_shapes(shapes, inverse)
        shape = shapes[0][1:]
        if None in shape:
            if not self.built:
                self._refuse("height and width to be known", *shapes)
        elif self.built and shape != self.mu.shape[1:]:
            self._refuse(f"{self.mu.shape[1:]} for each example", *shapes)

    def build(self, input_shape):
        input_shape, given = self._split_off(input_shape)
        shape = (self.num_classes or 1, *input_shape[1:])
        self.mu = self.add_weight(shape, "zeros", name="mu")
        self.log_sigma = self.add_weight(shape, "zeros", name="log_sigma")
        _, *size, channels = shape
        vector = tuple(given.get("context", ()))[1:3] == (1, 1)
        maps = math.prod(size) if vector else 1
        add_context_kernel(self, 2 * channels * maps)

    def _gaussian(self, labels=None, context=None):
        mu, log_sigma = map(ops.convert_to_tensor, (self.mu, self.log_sigma))
        if self.num_classes:
            labels = ops.cast(labels, "int32")
            mu, log_sigma = (
                ops.take(w, labels, axis=0) for w in (mu, log_sigma)
            )
        if context is not None:
            _, *size, channels = self.mu.shape
            h = pointwise(context, self.context_kernel)
            h = ops.reshape(h, (-1, *size, 2 * channels))
            mu, log_sigma = (
                w + part
                for w, part in zip(
                    (mu, log_sigma), ops.split(h, 2, axis=-1), strict=True
                )
            )
        return mu, ops.clip(log_sigma, -MAX_LOG_SIGMA, MAX_LOG_SIGMA)

    def _forward(self, x, **given):
        mu, log_sigma = self._gaussian(**given)
        z = (x - mu) * ops.exp(-log_sigma)
        return z, ops.broadcast_to(-log_sigma, ops.shape(x))

    def _inverse(self, z, **given):
        mu, log_sigma = self._gaussian(**given)
        return mu + ops.exp(log_sigma) * z

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "context_channels": self.context_channels,
        }
