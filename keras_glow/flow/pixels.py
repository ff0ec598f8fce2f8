"""Conversion of integer pixels 0..255 to values in [-0.5, 0.5) and back."""

import math

import numpy as np
from keras import ops

from keras_glow.checks import check_floats

# Noise has 16 bits. With the 8 bits of a pixel they fit into the 24 of a
# float32, so no rounding ever carries a value out of its bin.
NOISE_STEPS = 2.0**16


def dequantize(images, noise, bits=8):
    """Maps integer pixels to values in [-0.5, 0.5) inside their bin.

    `x = (floor(images / 2**(8 - bits)) + noise) / 2**bits - 0.5`, where noise
    is in [0, 1) and broadcastable; 0.5 is the centre of the bin.
    """
    noise = ops.floor(noise * NOISE_STEPS) / NOISE_STEPS
    bins = ops.floor(ops.cast(images, noise.dtype) / 2 ** (8 - bits))
    return (bins + noise) / 2**bits - 0.5


def quantize(x, bits=8):
    """Maps continuous values to the integer pixels whose bins hold them.

    Values outside [-0.5, 0.5) go to the nearest bin. With fewer than 8 bits
    the grey levels are multiples of `2**(8 - bits)`.

    Returns:
        uint8 numpy array of the same shape.

    Raises:
        ValueError: if a value is no number, or not finite.
    """
    x = check_floats("x", x)
    if not np.isfinite(x).all():
        raise ValueError(
            "The image is expected to be finite. Received: "
            f"{np.sum(~np.isfinite(x))} of {x.size} values that are not"
        )
    bins = np.clip(np.floor((x + 0.5) * 2**bits), 0, 2**bits - 1)
    return (bins * 2 ** (8 - bits)).astype("uint8")


def nan_where_outside(x, values, low, high):
    """Returns `x`, with nan where `values` are outside low..high.

    A compiled program cannot raise an error. It must not go on with a wrong
    number either: the loss becomes nan. The values are an integer tensor that
    broadcasts against x, `(batch, height, width, channels)`, or `(batch,)`.
    """
    if values.ndim == 1:
        values = ops.reshape(values, (-1, 1, 1, 1))
    values = ops.cast(values, x.dtype)
    return ops.where((values < low) | (values > high), math.nan, x)
