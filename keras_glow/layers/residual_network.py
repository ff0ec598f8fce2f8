"""A deeper network for a coupling layer: gated residual blocks."""

import keras
import numpy as np
from keras import ops

from keras_glow.layers.convolution import (
    biased,
    convolve,
    kernel_shape,
    pointwise,
)
from keras_glow.layers.coupling_network import Network


@keras.saving.register_keras_serializable(package="keras_glow")
class ResidualNetwork(Network):
    """3x3 convolution, gated residual blocks, 3x3 convolution that starts at 0.

    At the multiply-adds of a `CouplingNetwork` of width 256, two blocks of
    width 64 see 9x9 pixels instead of 5x5.

    Args:
        width: see `Network`.
        channels: see `Network`.
        blocks: int >= 1, see `GatedBlock`.
        dropout: float, 0 <= dropout < 1, share of the hidden values of each
            block that training sets to 0.
        **kwargs: other arguments of `Network`.

    Reference:
        Flow++, https://arxiv.org/abs/1902.00275, section 3.3, whose networks
        have attention besides
    """

    def __init__(self, width, channels, blocks=2, dropout=0.0, **kwargs):
        super().__init__(width, channels, **kwargs)
        self.dropout = dropout
        if dropout:
            seed = (self.seed or 0) % 2**31  # Torch takes no more
            self.masks = keras.random.SeedGenerator(seed, name="masks")
        seeds = blocks * [None]
        if self.seed is not None:  # each block begins with other kernels
            seeds = np.random.SeedSequence(self.seed)
            seeds = seeds.generate_state(blocks).tolist()
        self.blocks = [
            GatedBlock(
                self.border, seed, name=f"block_{number}", dtype=self.dtype
            )
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
        super().build(input_shape)

    def renew_masks(self):
        """Moves on to the next masks of dropout."""
        self.masks.next()

    def skip_masks(self, count):
        """Moves on to the masks after so many, from the first of all."""
        state = self.masks.state
        first, _ = ops.convert_to_numpy(state)
        state.assign(np.array([first, count], state.dtype))

    def _masks(self, x, training, new):
        if not (training and self.dropout):
            return None
        if new:
            self.renew_masks()
        shape = (len(self.blocks), *ops.shape(x)[:-1], self.width)
        # The masks are a function of the state, which drawing would change.
        state = self.masks.state
        with keras.StatelessScope([(state, state.value)]):
            ones = ops.ones(shape, self.compute_dtype)
            return keras.random.dropout(ones, self.dropout, seed=self.masks)

    def _hidden(self, h, context, masks):
        h = biased(self._convolve, h, self.kernel, self.bias)
        h = h if context is None else h + context
        for number, block in enumerate(self.blocks):
            h = block.add_to(h, None if masks is None else masks[number])
        return ops.elu(h)

    def _last(self):
        return self.last_kernel, self.last_bias

    def get_config(self):
        return {
            **super().get_config(),
            "blocks": len(self.blocks),
            "dropout": self.dropout,
        }


class GatedBlock(keras.layers.Layer):
    """Adds ELU, 3x3 convolution, ELU, dropout, 1x1 convolution to a gated unit.

    Args:
        border: see `Network`.
        seed: see `Network`.
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

    def add_to(self, h, mask=None):
        """Returns h `(batch, height, width, channels)` plus its change.

        It computes in the dtype of h, which `call` would cast. The mask of
        dropout, if any, multiplies what the second convolution takes.
        """
        change = biased(self._convolve, ops.elu(h), self.kernel, self.bias)
        change = ops.elu(change)
        if mask is not None:
            change = change * ops.cast(mask, h.dtype)
        change = biased(pointwise, change, self.gate_kernel, self.gate_bias)
        change, gate = ops.split(change, 2, axis=-1)
        return h + change * ops.sigmoid(gate)

    def _convolve(self, x, kernel, bias):
        return convolve(x, kernel, bias, self.border)
