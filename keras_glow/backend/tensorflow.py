"""TensorFlow: custom gradients, compiled functions, TensorFloat-32."""

import contextlib
import logging
import pathlib

import tensorflow as tf

from keras_glow.backend.portable import is_float

CPU_INFO = pathlib.Path("/proc/cpuinfo")


def custom_gradient(forward, backward, tensors):
    @tf.custom_gradient
    def function(*tensors):
        # No outer tape may record these operations: it would keep them all.
        outputs, kept = forward(*map(tf.stop_gradient, tensors))
        return outputs, lambda *gradients: backward(kept, *gradients)

    # Variables are read here, where the outer tape sees the read.
    return function(*map(tf.convert_to_tensor, tensors))


def differentiate(function, tensors, output_gradients):
    sources = [tensor for tensor in tensors if is_float(tensor)]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        outputs, extra = function(*tensors)
    gradients = iter(
        tape.gradient(
            outputs,
            sources,
            output_gradients,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    )
    return extra, [next(gradients) if is_float(t) else None for t in tensors]


def shared_trace(function, programs):
    # Every operation of a graph costs start-up time and memory.
    if tf.executing_eagerly():
        return function
    return tf.function(
        function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def compile_function(function):
    return tf.function(function, autograph=False)


def select(condition, one, other):
    # `Select` passes one of them on; `tf.where` would write a third tensor.
    return tf.raw_ops.Select(condition=condition, x=one, y=other)


def set_tf32(allowed):
    """Sets TensorFloat-32 for the process."""
    tf.config.experimental.enable_tensor_float_32_execution(allowed)


def has_gpu():
    return bool(tf.config.get_visible_devices("GPU"))


def computes_bfloat16():
    for gpu in tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        return details.get("compute_capability", (0,)) >= (8,)
    try:
        flags = CPU_INFO.read_text().split()
    except OSError:  # not Linux
        return False
    return bool({"avx512_bf16", "amx_bf16"}.intersection(flags))


@contextlib.contextmanager
def expected_retracing():
    def other(record):
        return "retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
