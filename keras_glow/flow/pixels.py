"""Conversion of integer pixels to values in [-0.5, 0.5) and back."""

import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_glow.checks import ImageFormat, check_floats, refuse
from keras_glow.losses import flow_dtype

# Noise has 16 bits, or as many fewer as a float has not left over beside those
# of a pixel: no rounding ever carries a value out of its bin.
NOISE_STEPS = 2.0**16
# In float32 trained models bring values back with errors of up to 3e-4 where
# they are unlike all that was seen in training, and of 3e-6 elsewhere
# (docs/results.md). Half a bin of 12 bits is 1.2e-4.
MAX_FLOAT32_BITS = 12


def dtype_for(bits, dtype=None):
    """Returns the dtype of a flow whose images come back exactly.

    Args:
        bits: int 1..16, or None.
        dtype: as in `losses.flow_dtype`; None allows float64 where it is
            needed.

    Raises:
        ValueError: if the bits need float64, and it is not allowed.
    """
    if bits is None or bits <= MAX_FLOAT32_BITS:
        return flow_dtype(dtype)
    if dtype is not None and flow_dtype(dtype) != "float64":
        refuse("dtype", f"float64 or None, for bits={bits}", dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns that it has no float64
        zero = ops.zeros((), "float64")
    if keras.backend.standardize_dtype(zero.dtype) != "float64":
        hint = '. Allow float64 by jax.config.update("jax_enable_x64", True)'
        refuse("bits", f"1..{MAX_FLOAT32_BITS} in float32", bits, hint)
    return "float64"


def dequantize(images, noise, bits=8):
    """Maps integer pixels to values in [-0.5, 0.5) inside their bin.

    `x = (floor(images / step) + noise) / 2**bits - 0.5`, where noise is in
    [0, 1) and broadcastable; 0.5 is the centre of the bin. The step is
    `2**(8 - bits)` for fewer than 8 bits, otherwise 1. With `bits` of None the
    images are floats, which stay as they are.
    """
    if bits is None:
        return ops.cast(images, noise.dtype)
    precision = np.finfo(keras.backend.standardize_dtype(noise.dtype)).nmant + 1
    steps = min(NOISE_STEPS, 2.0 ** (precision - bits))
    noise = ops.floor(noise * steps) / steps
    bins = ops.floor(ops.cast(images, noise.dtype) / _step(bits))
    return (bins + noise) / 2**bits - 0.5


def _step(bits):
    return 2 ** max(0, 8 - bits)


def quantize(x, bits=8):
    """Maps continuous values to the integer pixels whose bins hold them.

    Values outside [-0.5, 0.5) go to the nearest bin. With fewer than 8 bits
    the grey levels are multiples of `2**(8 - bits)`. With `bits` of None the
    values stay as they are.

    Returns:
        Numpy array of the same shape: uint8, uint16 for more than 8 bits, and
        floats for None.

    Raises:
        ValueError: if a value is no number, or not finite.
    """
    x = check_floats("x", x)
    if not np.isfinite(x).all():
        raise ValueError(
            "The image is expected to be finite. Received: "
            f"{np.sum(~np.isfinite(x))} of {x.size} values that are not"
        )
    return to_bins(x, bits, np).astype(ImageFormat((), bits).dtype)


def to_bins(x, bits, ops=ops):
    """Does the same in floats, by the functions of Keras or of NumPy."""
    if bits is None:
        return x
    bins = ops.clip(ops.floor((x + 0.5) * 2**bits), 0, 2**bits - 1)
    return bins * _step(bits)


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
