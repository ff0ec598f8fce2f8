"""A deeper network for a coupling layer: gated residual blocks."""

import keras
import numpy as np
from keras import ops

from keras_glow.layers.convolution import (
    convolve,
    kernel_shape,
    pointwise,
)


@keras.saving.register_keras_serializable(package="keras_glow")
class ResidualNetwork(keras.layers.Layer):
    """3x3 convolution, gated residual blocks, 3x3 convolution that starts at 0.

    At the multiply-adds of a `CouplingNetwork` of width 256, two blocks of
    width 64 see 9x9 pixels instead of 5x5.

    Args:
        width: int, hidden channels.
        channels: int, output channels.
        blocks: int >= 1, see `GatedBlock`.
        low_precision, seed, border: see `CouplingNetwork`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, any)`.
        training: bool.

    Returns:
        Float tensor `(batch, height, width, channels)`.

    Reference:
        Flow++, https://arxiv.org/abs/1902.00275, section 3.3, whose networks
        have attention besides
    """

    def __init__(
        self,
        width,
        channels,
        blocks=2,
        low_precision=None,
        seed=None,
        border=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width = width
        self.channels = channels
        self.low_precision = low_precision
        self.seed = seed
        self.border = border
        seeds = blocks * [None]
        if seed is not None:  # each block begins with other kernels
            seeds = np.random.SeedSequence(seed).generate_state(blocks).tolist()
        self.blocks = [
            GatedBlock(border, seed, name=f"block_{number}", dtype=self.dtype)
            for number, seed in enumerate(seeds, 1)
        ]

    def build(self, input_shape):
        self.kernel = self.add_weight(
            kernel_shape(input_shape[-1], self.width, self.border),
            keras.initializers.HeNormal(self.seed),
            name="kernel",
        )
        self.bias = self.add_weight((self.width,), "zeros", name="bias")
        self.last_kernel = self.add_weight(
            kernel_shape(self.width, self.channels, self.border),
            "zeros",
            name="last_kernel",
        )
        self.last_bias = self.add_weight(
            (self.channels,), "zeros", name="last_bias"
        )
        for block in self.blocks:
            block.build((*input_shape[:-1], self.width))

    def call(self, x, training=None):
        dtype = self.compute_dtype
        if training and self.low_precision:
            dtype = self.low_precision
        h = ops.cast(x, dtype)
        h = _biased(self._convolve, h, self.kernel, self.bias)
        for block in self.blocks:
            h = block.add_to(h)
        h = self._convolve(ops.elu(h), ops.cast(self.last_kernel, dtype))
        return ops.add(ops.cast(h, self.compute_dtype), self.last_bias)

    def _convolve(self, x, kernel):
        return convolve(x, kernel, self.border)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "channels": self.channels,
            "blocks": len(self.blocks),
            "low_precision": self.low_precision,
            "seed": self.seed,
            "border": self.border,
        }


class GatedBlock(keras.layers.Layer):
    """ELU, 3x3 convolution, ELU, 1x1 convolution to a gated linear unit, added.

    Args:
        border: see `CouplingNetwork`.
        seed: see `CouplingNetwork`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).
    """

    def __init__(self, border=False, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.border = border
        self.seed = seed

    def build(self, input_shape):
        width = input_shape[-1]
        self.kernel = self.add_weight(
            kernel_shape(width, width, self.border),
            keras.initializers.HeNormal(self.seed),
            name="kernel",
        )
        self.bias = self.add_weight((width,), "zeros", name="bias")
        self.gate_kernel = self.add_weight(
            (width, 2 * width),
            keras.initializers.LecunNormal(self.seed),
            name="gate_kernel",
        )
        self.gate_bias = self.add_weight(
            (2 * width,), "zeros", name="gate_bias"
        )

    def add_to(self, h):
        """Returns h `(batch, height, width, channels)` plus its change.

        It computes in the dtype of h, which `call` would cast.
        """
        change = _biased(self._convolve, ops.elu(h), self.kernel, self.bias)
        change = _biased(
            pointwise, ops.elu(change), self.gate_kernel, self.gate_bias
        )
        change, gate = ops.split(change, 2, axis=-1)
        return h + change * ops.sigmoid(gate)

    def _convolve(self, x, kernel):
        return convolve(x, kernel, self.border)


def _biased(convolution, x, kernel, bias):
    return ops.add(
        convolution(x, ops.cast(kernel, x.dtype)), ops.cast(bias, x.dtype)
    )
