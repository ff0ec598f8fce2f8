"""Reversal of the channels: the simplest permutation."""

import keras
from keras import ops

from keras_glow.layers.bijection import Bijection


@keras.saving.register_keras_serializable(package="keras_glow")
class Reverse(Bijection):
    """Reverses the order of the channels; preserves volume.

    - Forward and inverse: `z[..., c] = x[..., channels - 1 - c]`
    - Log-determinant: 0

    It swaps the two halves that a coupling sees and never mixes inside them:
    the weakest of the three permutations in Glow's ablation.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Reference:
        NICE: Dinh et al., 2014, https://arxiv.org/abs/1410.8516
    """

    def _forward(self, x):
        return ops.flip(x, axis=-1), self.zero_log_det(x)

    def _inverse(self, z):
        return ops.flip(z, axis=-1)
