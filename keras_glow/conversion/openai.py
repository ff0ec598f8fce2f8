"""Reads checkpoints of https://github.com/openai/glow, of TensorFlow 1."""

import numpy as np

from keras_glow.conversion.description import (
    INTERLEAVED_GAUSSIAN,
    INTERLEAVED_SHIFTS,
    Convolution,
    FlowDescription,
    Step,
)

FIRST = "model/0/0/actnorm_center/b"
# Everything but the flow: the optimiser, the averages, the classifier.
IGNORED = r"(?!model/(\d+|pool\d+|prior)/).*|.*(_adam_|/Exp|indices_inverse).*"
LOG_SCALE_FACTOR = 3


def read(weights, size):
    """Describe the flow in a checkpoint; `size` is (height, width)."""
    levels, splits = [], []
    image_shape = (*size, weights.image_channels(FIRST, 1, 1, 1, None))
    channels = 4 * image_shape[-1]
    count = weights.count("model/")
    for level in range(count):
        name = f"model/{level}/"
        steps = [f"{name}{step}/" for step in range(weights.count(name))]
        levels.append([_read_step(weights, step, channels) for step in steps])
        if level < count - 1:
            split = _read_zeros(
                weights, f"model/pool{level}/conv/", channels // 2, channels
            )
            splits.append(split.rearranged(INTERLEAVED_GAUSSIAN))
            channels *= 2
    height, width = (n // 2**count for n in size)
    top = _read_top(weights, height, width, 2 * channels)
    return FlowDescription(levels, splits, top, image_shape)


def _read_step(weights, name, channels):
    bias, log_scale = _read_actnorm(weights, f"{name}actnorm", channels)
    net = f"{name}f1/"
    first = _read_conv(weights, f"{net}l_1/", channels // 2, 3)
    second = _read_conv(weights, f"{net}l_2/", first.bias.size, 1)
    last = _read_zeros(weights, f"{net}l_last/", second.bias.size, None)
    if last.bias.size == channels:  # Additive couplings have half as many.
        last = last.rearranged(INTERLEAVED_SHIFTS)
    matrix = _read_matrix(weights, name, channels)
    return Step(np.exp(log_scale), bias, matrix, (first, second, last))


def _read_actnorm(weights, name, channels):
    shape = 1, 1, 1, channels
    bias = weights.take(f"{name}_center/b", *shape)
    log_scale = LOG_SCALE_FACTOR * weights.take(f"{name}_scale/logs", *shape)
    return bias.reshape(-1), log_scale.reshape(-1)


def _read_matrix(weights, name, channels):
    """Return the matrix that multiplies a column of channels from the left."""
    if f"{name}invconv/W" in weights:  # It multiplied a row from the right.
        return weights.take(f"{name}invconv/W", channels, channels).T
    order = np.arange(channels)[::-1]  # A permutation without weights reverses.
    if f"{name}shuffle/indices" in weights:
        order = weights.take(f"{name}shuffle/indices", channels).astype(int)
        if not np.array_equal(np.sort(order), np.arange(channels)):
            raise ValueError(f"{name}shuffle/indices is no permutation")
    return np.eye(channels)[order]


def _read_conv(weights, name, inputs, size):
    kernel, border = _read_kernel(weights, name, inputs, None, size)
    outputs = kernel.shape[-1]
    norm = _read_actnorm(weights, f"{name}actnorm", outputs)
    return Convolution(kernel, *norm, border)


def _read_zeros(weights, name, inputs, outputs):
    kernel, border = _read_kernel(weights, name, inputs, outputs, 3)
    outputs = kernel.shape[-1]
    bias = weights.take(f"{name}b", 1, 1, 1, outputs).reshape(-1)
    log_scale = weights.take(f"{name}logs", 1, outputs).reshape(-1)
    return Convolution(kernel, bias, LOG_SCALE_FACTOR * log_scale, border)


def _read_kernel(weights, name, inputs, outputs, size):
    """Return the kernel and its border, the last input of a 3x3 kernel."""
    if size == 1:
        return weights.take(f"{name}W", 1, 1, inputs, outputs), None
    kernel = weights.take(f"{name}W", size, size, inputs + 1, outputs)
    return kernel[:, :, :-1], kernel[:, :, -1:]


def _read_top(weights, height, width, outputs):
    top = np.zeros((1, height, width, outputs))
    if "model/prior/p/W" in weights:
        conv = _read_zeros(weights, "model/prior/p/", outputs, outputs)
        top = top + conv.on_zeros(height, width)
    name = "model/prior/y_emb/"
    if f"{name}W" in weights:  # A linear layer of one-hot labels.
        classes = weights.take(f"{name}W", None, outputs)
        classes = classes + weights.take(f"{name}b", 1, outputs)
        log_scale = weights.take(f"{name}logs", 1, outputs)
        classes *= np.exp(LOG_SCALE_FACTOR * log_scale)
        top = top + classes[:, None, None]
    return top
