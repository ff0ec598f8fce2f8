"""The portable path: functions for any backend, by `keras.ops` alone.

`tensorflow`, `jax` and `torch` replace some of these functions by better ones.
"""

import contextlib

import keras
from keras import ops


def custom_gradient(forward, backward, tensors):
    """See `keras_glow.backend`; there is no portable way.

    Raises:
        ValueError: always.
    """
    raise _no_gradients()


def differentiate(function, tensors, output_gradients):
    """See `keras_glow.backend`; there is no portable way.

    Raises:
        ValueError: always.
    """
    raise _no_gradients()


def shared_trace(function):
    """Returns the function itself."""
    return function


def compile_function(function):
    """Returns the function itself."""
    return function


def materialize(tensor):
    """Returns the tensor itself."""
    return tensor


def select(condition, one, other):
    """Returns a new tensor with the values of one of two."""
    return ops.where(condition, one, other)


def constant(array, like):
    """Returns the array as a tensor."""
    return ops.convert_to_tensor(array, like.dtype)


def relu(x):
    """Returns `max(x, 0)`."""
    return ops.relu(x)


def exact_products():
    """Returns a context that changes nothing."""
    return contextlib.nullcontext()


def expected_retracing():
    """Returns a context that changes nothing."""
    return contextlib.nullcontext()


def set_tf32(allowed):
    """Does nothing: only TensorFlow and Torch set the whole process."""


def has_gpu():
    """Returns False."""
    return False


def is_float(tensor):
    """Returns whether a tensor of any backend holds floats."""
    return keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(tensor.dtype)
    )


def _no_gradients():
    return ValueError(
        "The backend is expected to have gradients, as tensorflow, jax and "
        f"torch. Received: {keras.backend.backend()}"
    )
