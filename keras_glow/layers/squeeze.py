"""Space to depth: trades resolution for channels."""

import keras
from keras import ops

from keras_glow.checks import bad_input, check_integer
from keras_glow.layers.bijection import Bijection


@keras.saving.register_keras_serializable(package="keras_glow")
class Squeeze(Bijection):
    """Moves each `factor x factor` block of pixels into the channels.

    - Forward: `(batch, height, width, channels)` to
      `(batch, height / factor, width / factor, factor**2 * channels)`, where
      pixel (i, j) of a block becomes the channels from
      `(factor * i + j) * channels` on
    - Log-determinant: 0

    Args:
        factor: int >= 1; height and width must be multiples of it.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Raises:
        ValueError: if height or width is not a multiple of `factor`, or, in the
            inverse, the number of channels is not a multiple of its square.

    Reference:
        RealNVP: Dinh et al., 2017, https://arxiv.org/abs/1605.08803,
        section 3.6
    """

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = check_integer("factor", factor, 1)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def _forward(self, x):
        _, height, width, channels = x.shape
        f = self.factor
        if height % f or width % f:
            raise bad_input(
                f"Squeeze expects height and width to be multiples of {f}. "
                f"Received: shape={x.shape}"
            )
        z = ops.reshape(x, (-1, height // f, f, width // f, f, channels))
        z = ops.transpose(z, (0, 1, 3, 2, 4, 5))
        z = ops.reshape(z, (-1, height // f, width // f, f * f * channels))
        return z, self.zero_log_det(x)

    def _inverse(self, z):
        _, height, width, channels = z.shape
        f = self.factor
        if channels % f**2:
            raise bad_input(
                f"Squeeze expects channels to be a multiple of {f**2} on the "
                f"way back. Received: shape={z.shape}"
            )
        x = ops.reshape(z, (-1, height, width, f, f, channels // f**2))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, height * f, width * f, channels // f**2))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
