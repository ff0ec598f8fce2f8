"""Half of the channels leave the flow, standardised given the other half."""

import keras
from keras import ops

from keras_glow.checks import bad_input, check_boolean
from keras_glow.layers.bijection import IMAGE, Bijection, split_channels
from keras_glow.layers.convolution import (
    add_context_kernel,
    convolve,
    kernel_shape,
    pointwise,
)

# sigma of a latent stays within exp(+-7): beyond it the inverse is not exact.
MAX_LOG_SIGMA = 7.0


@keras.saving.register_keras_serializable(package="keras_glow")
class Split(Bijection):
    """Splits the channels: `x -> [kept, latent]`.

    The second half z has a Gaussian density, whose mean and log-scale a 3x3
    convolution, zero at first, computes from the first half. z leaves
    standardised, so the latents of all levels are standard normal in a model
    that fits, and one temperature scales them all.

    - Forward: `kept, z = x`; `latent = (z - mu(kept)) / sigma(kept)`
    - Inverse: `z = mu(kept) + sigma(kept) * latent`
    - Log-determinant: `-sum(log_sigma(kept))`

    Args:
        border: bool, whether the convolution sees where the image ends, see
            `keras_glow.layers.convolution.convolve`.
        num_classes: int, or None. With it, a mean and a log-scale per channel
            are learned for each class and added, and labels follow the inputs.
        context_channels: int, or None. With it a 1x1 convolution of a context
            is added, which follows the inputs, see `Coupling`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, or, for the
            inverse, the list `[kept, latent]`. With `num_classes`, the list
            `[x, labels]` or `[kept, latent, labels]`, with an integer tensor
            `(batch,)` of labels. A context comes last.

    Returns:
        The list `[kept, latent]`; if the number of channels is odd, `kept` has
        one channel more.

    Reference:
        RealNVP, https://arxiv.org/abs/1605.08803, section 3.6;
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, section 3.4
    """

    input_ranks = (IMAGE,)
    latent_ranks = (IMAGE, IMAGE)

    def __init__(
        self,
        border: bool = False,
        num_classes: int | None = None,
        context_channels: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.border = check_boolean("border", border)
        self._take_labels(num_classes)
        self._take_context(context_channels)

    def build(self, input_shape):
        input_shape, _ = self._split_off(input_shape)
        if isinstance(input_shape[0], (list, tuple)):  # the inverse came first
            kept, latent = (shape[-1] for shape in input_shape)
        else:
            kept, latent = -(-input_shape[-1] // 2), input_shape[-1] // 2
        if not latent:
            raise bad_input(
                "Split expects at least 2 channels. "
                f"Received: shape={tuple(input_shape)}"
            )
        self.built_channels = kept + latent
        self.kept_channels = kept
        self.kernel = self.add_weight(
            kernel_shape(kept, 2 * latent, self.border), "zeros", name="kernel"
        )
        self.bias = self.add_weight((2 * latent,), "zeros", name="bias")
        if self.num_classes:
            self.class_bias = self.add_weight(
                (self.num_classes, 2 * latent), "zeros", name="class_bias"
            )
        add_context_kernel(self, 2 * latent)

    def _gaussian(self, kept, labels=None, context=None):
        h = convolve(kept, self.kernel, self.bias, self.border)
        if self.num_classes:
            labels = ops.cast(labels, "int32")
            h = h + ops.take(self.class_bias, labels, axis=0)[:, None, None]
        if context is not None:
            h = h + pointwise(context, self.context_kernel)
        mu, log_sigma = ops.split(h, 2, axis=-1)
        return mu, ops.clip(log_sigma, -MAX_LOG_SIGMA, MAX_LOG_SIGMA)

    def _forward(self, x, **given):
        kept, z = split_channels(x, self.kept_channels)
        mu, log_sigma = self._gaussian(kept, **given)
        latent = (z - mu) * ops.exp(-log_sigma)
        return [kept, latent], -log_sigma

    def _inverse(self, z, **given):
        kept, latent = z
        mu, log_sigma = self._gaussian(kept, **given)
        return ops.concatenate(
            [kept, mu + ops.exp(log_sigma) * latent], axis=-1
        )

    def get_config(self):
        return {
            **super().get_config(),
            "border": self.border,
            "num_classes": self.num_classes,
            "context_channels": self.context_channels,
        }
