"""TensorFloat-32, in which GPUs may compute float32: off, unless allowed."""

import keras

from keras_glow.checks import check_boolean

_decided = False


def allow_tf32(allowed=True):
    """Whether GPUs may compute products of float32 in TensorFloat-32.

    It rounds the factors to 10 of the 23 bits of their mantissa, and is the
    default of TensorFlow and JAX for all products, of Torch for convolutions.
    An image that goes through a flow in it does not come back exactly, so the
    first layer of a flow that is made turns it off. That holds for the whole
    process, for other models too, and so does what is set here, before that or
    after.

    To train faster on a GPU, `Glow(network_dtype="bfloat16")` gains more, and
    leaves alone what has to be exact.

    Args:
        allowed: bool.

    Raises:
        ValueError: if it is anything else.
    """
    global _decided
    allowed = check_boolean("allowed", allowed)
    backend = keras.backend.backend()
    if backend in _SETTERS:  # the others have none
        _SETTERS[backend](allowed)
    _decided = True


def turn_off_tf32():
    """Turns TensorFloat-32 off, unless `allow_tf32` was called before."""
    if not _decided:
        allow_tf32(False)


def _set_tensorflow(allowed):
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(allowed)


def _set_jax(allowed):
    import jax

    # What is compiled already for the other setting is not used for this one.
    jax.config.update(
        "jax_default_matmul_precision", None if allowed else "highest"
    )


def _set_torch(allowed):
    import torch

    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


_SETTERS = {
    "tensorflow": _set_tensorflow,
    "jax": _set_jax,
    "torch": _set_torch,
}
