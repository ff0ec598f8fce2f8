"""Code that differs between TensorFlow, JAX and Torch, or touches the process.

`portable` describes the functions, which do the same on all backends, and needs
nothing but `keras.ops`; `tensorflow`, `jax` and `torch` hold those that are
better there. `devices` is for training on several devices, `keras_internals`
holds every private name of Keras that is used, and `process` every effect on
the process. May import `checks` only.
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
compiles_operations = _best("compiles_operations")
materialize = _best("materialize")
select = _best("select")
constant = _best("constant")
concatenate = _best("concatenate")
flatten = portable.flatten
pack = portable.pack
assign_parts = _best("assign_parts")
convolution = _best("convolution")
product = _best("product")
relu = _best("relu")
exact_products = _best("exact_products")
expected_retracing = _best("expected_retracing")
has_gpu = _best("has_gpu")
computes_bfloat16 = _best("computes_bfloat16")
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
