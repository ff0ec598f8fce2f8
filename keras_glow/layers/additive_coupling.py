"""Additive coupling: half of the channels shifts the other half."""

import keras

from keras_glow.layers.coupling import Coupling


@keras.saving.register_keras_serializable(package="keras_glow")
class AdditiveCoupling(Coupling):
    """Shifts the second half of the channels by a function of the first.

    - Forward: `x1, x2 = x`; `z = [x1, x2 + network(x1)]`
    - Inverse: `z1, z2 = z`; `x = [z1, z2 - network(z1)]`
    - Log-determinant: 0

    It cannot explode in either direction, at some cost in likelihood against
    `AffineCoupling`. Arguments: see `Coupling`; the network returns one
    channel for each that is shifted.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, channels >= 2.

    Reference:
        NICE: Dinh et al., 2014, https://arxiv.org/abs/1410.8516, section 3.2
    """

    outputs_per_channel = 1

    def _transform(self, x2, h):
        return x2 + h, self.zero_log_det(x2)

    def _restore(self, z2, h):
        return z2 - h
