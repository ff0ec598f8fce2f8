"""The portable path: functions for any backend, by `keras.ops` alone.

`tensorflow`, `jax` and `torch` replace some of these functions by better ones.
"""

import contextlib

import keras
from keras import ops


def custom_gradient(forward, backward, tensors):
    """Runs `forward(*tensors)`, with a backward pass of its own.

    There is no portable way.

    Args:
        forward: returns `(outputs, kept)`: a tuple of tensors, and nested
            tensors to keep for the backward pass.
        backward: `backward(kept, *output_gradients)` is called instead of
            differentiating `forward`. It returns one gradient for each of the
            tensors, None for those that are not floats.
        tensors: all tensors that need gradients: any others that the functions
            use get none.

    Returns:
        The outputs.

    Raises:
        ValueError: if the backend has no gradients.
    """
    raise _no_gradients()


def differentiate(function, tensors, output_gradients):
    """Pulls gradients of a function's outputs back to its tensors, at once.

    Args:
        function: `function(*tensors)` returns `(outputs, extra)`; `extra` is
            any further tensor, and is not differentiated.
        tensors: list of tensors.
        output_gradients: one for each of the outputs.

    Returns:
        `extra` and the list of gradients, None for tensors that are not floats.

    Raises:
        ValueError: if the backend has no gradients.
    """
    raise _no_gradients()


def shared_trace(function):
    """Returns a function that a compiled program holds once, if it can."""
    return function


def compile_function(function):
    """Returns a function of tensors as a compiled program, if there are any.

    The weights that it reads may become constants of the program, so use it
    before they change.
    """
    return function


def materialize(tensor):
    """Returns the tensor; XLA does not compute it again for each reader."""
    return tensor


def select(condition, one, other):
    """Returns one of two tensors, by a bool scalar."""
    return ops.where(condition, one, other)


def constant(array, like):
    """Returns a NumPy array, never changed, as a tensor of the dtype of another.

    Torch keeps it for the next time.
    """
    return ops.convert_to_tensor(array, like.dtype)


def relu(x):
    """Returns `max(x, 0)`, and keeps its output alone for the backward pass."""
    return ops.relu(x)


def exact_products():
    """Returns a context in which products of float32 are not rounded to TF32.

    It changes nothing where the backend cannot say so for a part of a program.
    """
    return contextlib.nullcontext()


def expected_retracing():
    """Returns a context without warnings that a function is compiled anew.

    It is for one that is meant to be compiled for each batch size.
    """
    return contextlib.nullcontext()


def set_tf32(allowed):
    """Allows TensorFloat-32 in the process, if it is set for all of it."""


def has_gpu():
    """Returns whether the backend sees a GPU."""
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
