"""Affine coupling: half of the channels scales and shifts the other half."""

import typing

import keras
from keras import ops

from keras_glow.checks import check_choice
from keras_glow.layers.coupling import Coupling

# Each function maps the network's output h to log s, elementwise.
SCALE_FUNCTIONS = {
    # This is tanh(2 h) / 2, but `ops.tanh` rounds to float32 on JAX.
    "bounded": lambda h: ops.sigmoid(4.0 * h) - 0.5,
    "sigmoid": lambda h: ops.log_sigmoid(h + 2.0),
    "exp": lambda h: h,
}


@keras.saving.register_keras_serializable(package="keras_glow")
class AffineCoupling(Coupling):
    """Scales and shifts the second half of the channels given the first.

    - Forward: `x1, x2 = x`; `log_s, t` from `network(x1)`;
      `z = [x1, (x2 + t) * s]`
    - Inverse: `z1, z2 = z`; `log_s, t` from `network(z1)`;
      `x = [z1, z2 / s - t]`
    - Log-determinant: `sum(log_s)`

    The scale function computes `s` from the first half h of the network's
    output:

    - `"bounded"`, the default: `s = exp(tanh(2 h) / 2)`, from 0.61 to 1.65.
      It is 1 at h = 0, so a new coupling is the identity, and neither
      direction can explode: images unlike the training images still decode to
      themselves. With equal training it also reaches fewer bits/dim than
      `"sigmoid"`.
    - `"sigmoid"`: `s = sigmoid(h + 2)`, from 0 to 1, as in openai/glow. It has
      no lower bound: the inverse can overflow, and did when measured
      (`experiments/scale_functions.py`).
    - `"exp"`: `s = exp(h)`, as in the paper; no bound at all.

    Args:
        width: int, hidden channels of the default network.
        scale: `"bounded"`, `"sigmoid"` or `"exp"`.
        **kwargs: arguments of `Coupling` (`network`, `network_dtype`, ...);
            the network returns two channels for each that is transformed:
            first all h, then all t.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, channels >= 2.

    Raises:
        ValueError: on an unknown scale function.

    Reference:
        RealNVP: Dinh et al., 2017, https://arxiv.org/abs/1605.08803;
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, section 3.3
    """

    outputs_per_channel = 2

    def __init__(
        self, width: int = 512, scale: str = "bounded", **kwargs
    ) -> None:
        super().__init__(width=width, **kwargs)
        self.scale = check_choice("scale", scale, sorted(SCALE_FUNCTIONS))

    def log_scale(self, x: typing.Any) -> typing.Any:
        """Returns `log s` for the second half of x, with the same shape."""
        x, given = self._split_off(x)
        h = self._condition(self._split(x)[0], **given)
        return self._scale_and_shift(h)[0]

    def _scale_and_shift(self, h):
        h, shift = ops.split(h, 2, axis=-1)
        return SCALE_FUNCTIONS[self.scale](h), shift

    def _transform(self, x2, h):
        log_scale, shift = self._scale_and_shift(h)
        z2 = (x2 + shift) * ops.exp(log_scale)
        return z2, log_scale

    def _restore(self, z2, h):
        log_scale, shift = self._scale_and_shift(h)
        return z2 * ops.exp(-log_scale) - shift

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
