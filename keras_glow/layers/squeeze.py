"""Space to depth: trades resolution for channels."""

import keras
from keras import ops

from keras_glow.checks import check_integer
from keras_glow.layers.bijection import IMAGE, Bijection


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

    input_ranks = (IMAGE,)

    def __init__(self, factor: int = 2, **kwargs) -> None:
        super().__init__(**kwargs)
        self.factor = check_integer("factor", factor, 1)

    def _check_shapes(self, shapes, inverse):
        super()._check_shapes(shapes, inverse)
        ((_, *size, channels),) = shapes
        f = self.factor
        if inverse and channels % f**2:
            self._refuse(
                f"channels to be a multiple of {f**2} on the way back", *shapes
            )
        if not inverse and any(n % f for n in size if n is not None):
            self._refuse(f"height and width to be multiples of {f}", *shapes)

    def compute_output_spec(
        self, inputs, log_det=None, inverse=False, **kwargs
    ):
        # Keras would try sizes of its own where it knows none.
        batch, *size, channels = inputs.shape
        f = self.factor
        if inverse:
            size = [n and n * f for n in size]
            channels = channels // f**2
        else:
            size = [n and n // f for n in size]
            channels = channels * f**2
        return self._output_spec((batch, *size, channels), log_det, inverse)

    def _forward(self, x):
        return self._move(ops.space_to_depth, x), self.zero_log_det(x)

    def _inverse(self, z):
        return self._move(ops.depth_to_space, z)

    def _move(self, move, x):
        if self.factor == 1:  # Keras refuses it.
            return x
        return move(x, self.factor, data_format="channels_last")

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}
