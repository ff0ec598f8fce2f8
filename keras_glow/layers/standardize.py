"""Standardisation of data in units of their own, measured once."""

import keras
from keras import ops

from keras_glow.layers.actnorm import ActNorm, moments

# Data may be in any units: exp(44) is about 1e19, whose square float32 holds.
MAX_LOG_UNIT = 44.0
# Of a mean: a smaller deviation may be nothing but rounding.
LEAST_DEVIATION = 1e-6


@keras.saving.register_keras_serializable(package="keras_glow")
class Standardize(ActNorm):
    """Takes the mean of each channel away, and divides by its deviation.

    It is an `ActNorm` that is set from data, as every other, and then stays:
    training does not change it. A channel that does not vary is only shifted.

    - Forward: `z = (x - mean) / deviation`
    - Log-determinant: `-height * width * sum(log(deviation))`

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.
    """

    trained = False

    def set_from(self, x):
        mean, deviation = moments(x)
        varies = deviation > LEAST_DEVIATION * ops.abs(mean)
        log_scale = -ops.log(ops.where(varies, deviation, 1.0))
        self.set(mean, ops.clip(log_scale, -MAX_LOG_UNIT, MAX_LOG_UNIT))
