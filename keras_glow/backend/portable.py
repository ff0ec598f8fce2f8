"""The portable path: functions for any backend, by `keras.ops` alone.

`tensorflow`, `jax` and `torch` replace some of these functions by better ones.
"""

import contextlib
import itertools
import math

import keras
from keras import ops


def custom_gradient(forward, backward, tensors):
    """Runs `forward(*tensors)`; the backward pass is `backward`.

    `forward` returns `(outputs, kept)`: a tuple of tensors, and nested tensors
    to keep for `backward(kept, *output_gradients)`, which returns one gradient
    for each of the tensors, None for those that are not floats. `tensors` has
    to hold all tensors that need gradients: any others that the functions use
    get none. Returns the outputs.
    """
    raise _no_gradients()


def differentiate(function, tensors, output_gradients):
    """Pulls gradients of a function's outputs back to its tensors, at once.

    `function(*tensors)` returns `(outputs, extra)`; `extra` is any further
    tensor, and is not differentiated. Returns `extra` and the list of
    gradients, None for tensors that are not floats.
    """
    raise _no_gradients()


def shared_trace(function, programs):
    """Returns a function that is traced once, however often it is called.

    `programs` is a dict for what stays from call to call; None if the function
    may do in Python, or draw, something else the next time.
    """
    return function


def compile_function(function):
    """Returns a function of tensors as a compiled program, if there are any.

    The weights that it reads may become constants of the program, so use it
    before they change.
    """
    return function


def compiles_operations(tensors):
    """Returns whether each operation on tensors is compiled by itself."""
    return False


def materialize(tensor):
    """Returns the tensor; XLA does not compute it again for each reader."""
    return tensor


def select(condition, one, other):
    """Returns one of two tensors, by a bool scalar."""
    return ops.where(condition, one, other)


def constant(array, like):
    """Returns an array, never changed, as a tensor of the dtype of another."""
    return ops.convert_to_tensor(array, like.dtype)


def convolution(x, kernel, bias, padding):
    """Applies a convolution to images `(batch, height, width, channels)`.

    A bias, unless it is None, is added in its own dtype.
    """
    x = ops.conv(x, kernel, padding=padding, data_format="channels_last")
    return plus(x, bias)


def product(x, kernel, bias):
    """Multiplies two matrices; for the bias see `convolution`."""
    # `ops.matmul` would round float64 to float32 on Torch.
    return plus(x @ kernel, bias)


def plus(x, bias):
    """Adds a bias, unless it is None, in its own dtype."""
    # This is `ops.add`, not `+`: on TensorFlow its gradient for a bias does not
    # need x, so half of all activations need not be kept.
    return x if bias is None else ops.add(ops.cast(x, bias.dtype), bias)


def relu(x):
    """Returns `max(x, 0)`, and keeps its output alone for the backward pass."""
    return ops.relu(x)


def exact_products():
    """Returns a context without TensorFloat-32, if there can be one."""
    return contextlib.nullcontext()


def expected_retracing():
    """Returns a context in which nothing warns of a function compiled anew."""
    return contextlib.nullcontext()


def set_tf32(allowed):
    """Sets TensorFloat-32 for the process, if the backend can only do that."""


def has_gpu():
    """Returns whether the backend sees a GPU."""
    return False


def computes_bfloat16():
    """Returns whether the device has instructions for bfloat16.

    Elsewhere it is emulated, which is slower than float32.
    """
    return False


def concatenate(tensors):
    """Returns all tensors as one row."""
    return ops.concatenate([_shaped(tensor, (-1,)) for tensor in tensors])


def assign_parts(variables, row, wanted, assign):
    """Assigns to each variable that is wanted its part of a row."""
    sizes = [math.prod(v.shape) for v in variables]
    parts = ops.split(row, list(itertools.accumulate(sizes))[:-1])
    for variable, part, chosen in zip(variables, parts, wanted, strict=True):
        if chosen:
            assign(variable, _shaped(part, variable.shape))


def _shaped(tensor, shape):
    """Reshapes a tensor, unless it has the right rank already.

    Half of the weights are vectors: TensorFlow has fewer operations to trace.
    """
    # Sparse gradients of TensorFlow have no `ndim`; `reshape` makes them dense.
    same = getattr(tensor, "ndim", None) == len(shape)
    return tensor if same else ops.reshape(tensor, shape)


def flatten(tree):
    """Returns the leaves of nested lists and tuples, far faster than Keras."""
    if isinstance(tree, (list, tuple)):
        return [leaf for branch in tree for leaf in flatten(branch)]
    return [tree]


def pack(tree, leaves):
    """Returns leaves nested as those of a tree, in lists."""
    leaves = iter(leaves)

    def packed(branch):
        if isinstance(branch, (list, tuple)):
            return [packed(each) for each in branch]
        return next(leaves)

    return packed(tree)


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
