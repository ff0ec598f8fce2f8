"""Code that differs between TensorFlow, JAX and Torch, or touches the process.

This file describes the functions, which do the same on all backends;
`tensorflow`, `jax` and `torch` hold those that are better there than in
`portable`, which needs nothing but `keras.ops`. `devices` is for training on
several devices, `keras_internals` holds every private name of Keras that is
used, and `process` every effect on the process. May import `checks` only.

- `custom_gradient(forward, backward, tensors)` runs `forward(*tensors)`, and
  has the backward pass call `backward` instead of differentiating `forward`.
  `forward` returns `(outputs, kept)`: a tuple of tensors, and nested tensors to
  keep for the backward pass. `backward(kept, *output_gradients)` returns one
  gradient for each of the tensors, None for those that are not floats.
  `tensors` has to hold all tensors that need gradients: any others that the
  functions use get none.
  Returns the outputs.
- `differentiate(function, tensors, output_gradients)` runs
  `function(*tensors)`, which returns `(outputs, extra)`, and pulls gradients of
  its outputs back to the tensors at once; `extra` is any further tensor, and is
  not differentiated. Returns `extra` and the list of gradients, None for
  tensors that are not floats.
- `shared_trace(function)` returns a function that a compiled program holds
  once, however often it is called.
- `compile_function(function)` returns a function of tensors as a compiled
  program. The weights that it reads may become constants of the program, so use
  it before they change.
- `materialize(tensor)` returns the tensor, and keeps XLA from recomputing it in
  every operation that reads it.
- `select(condition, one, other)` returns one of two tensors, by a bool scalar.
- `constant(array, like)` returns a NumPy array, never changed, as a tensor with
  the dtype and device of another. Torch keeps it for the next time.
- `relu(x)` returns `max(x, 0)`, and keeps nothing but its output for the
  backward pass.
- `exact_products()` is a context in which products of float32 are not rounded
  to TensorFloat-32, where the backend can say so for a part of a program.
- `expected_retracing()` is a context in which nothing warns that a function is
  compiled anew, for one that is meant to be compiled for each batch size.
- `has_gpu()` returns whether the backend sees a GPU.
- `set_tf32(allowed)` allows TensorFloat-32 in the process, or forbids it, where
  the backend can only say so for all of it.
"""

import importlib

import keras
from keras import ops

from keras_glow.backend import portable
from keras_glow.backend.portable import is_float

_backend = portable
if keras.backend.backend() in ("tensorflow", "jax", "torch"):
    _backend = importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def _best(name):
    return getattr(_backend, name, None) or getattr(portable, name)


custom_gradient = _best("custom_gradient")
differentiate = _best("differentiate")
shared_trace = _best("shared_trace")
compile_function = _best("compile_function")
materialize = _best("materialize")
select = _best("select")
constant = _best("constant")
relu = _best("relu")
exact_products = _best("exact_products")
expected_retracing = _best("expected_retracing")
has_gpu = _best("has_gpu")
set_tf32 = _best("set_tf32")


def token_of(tensors):
    """Returns a scalar 0 that depends on all tensors that are not None."""
    firsts = [ops.reshape(t, (-1,))[0] for t in tensors if t is not None]
    return 0.0 * sum(firsts)


def order_after(tensor, token):
    """Returns the tensor, computed after everything that a token depends on.

    A compiled program may compute a tensor that depends on nothing long before
    it is needed, and then has to keep it. Only a dependency on data sets the
    order: XLA drops the control dependencies of TensorFlow, and on CPUs the
    `optimization_barrier` of JAX.

    Args:
        tensor: any tensor; one that holds no floats comes back as it is.
        token: the result of `token_of`.
    """
    if not is_float(tensor):
        return tensor
    return tensor + ops.cast(token, tensor.dtype)
