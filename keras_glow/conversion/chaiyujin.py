"""Reads checkpoints of chaiyujin's port and of y0ast's, which comes from it.

https://github.com/chaiyujin/glow-pytorch and
https://github.com/y0ast/Glow-PyTorch number all layers in one list: for each
level a squeeze, the steps and a split.
"""

import re
import typing

import numpy as np

from keras_glow.conversion.description import (
    INTERLEAVED_GAUSSIAN,
    INTERLEAVED_SHIFTS,
    Convolution,
    FlowDescription,
    Step,
    channels_last_kernel,
)

# The weights of a classifier that is trained beside the flow.
IGNORED = r"project_class\..*"


class Names(typing.NamedTuple):
    """The names that a port gives its weights.

    Attributes:
        network: the coupling network of a step.
        convolution: the part of a name between a convolution and its weight.
        top: the convolution of the top prior.
    """

    network: str
    convolution: str
    top: str


CHAIYUJIN = Names("f", "", "learn_top")
Y0AST = Names("block", "conv.", "learn_top_fn")


def image_size(weights):
    """Work out (height, width) from the shape of the last latents."""
    zeros = weights.take("prior_h", *4 * [None])
    if zeros.any():
        raise ValueError("prior_h is expected to be zeros")
    height, width = zeros.shape[2:]
    splits = {
        match[1]
        for name in weights.names
        if (match := re.match(r"flow\.layers\.(\d+)\.conv\.", name))
    }
    factor = 2 ** (len(splits) + 1)
    return height * factor, width * factor


def read(weights, size, names):
    """Describe the flow in a checkpoint; `size` is (height, width)."""
    first = "flow.layers.1.actnorm.bias"
    image_shape = (*size, weights.image_channels(first, 1, None, 1, 1))
    channels = 4 * image_shape[-1]
    levels, splits, number = [[]], [], 1
    while True:
        name = f"flow.layers.{number}."
        if f"{name}actnorm.bias" in weights:
            step = _read_step(weights, name, channels, names)
            levels[-1].append(step)
            number += 1
        elif f"{name}conv.logs" in weights:
            split = _read_zeros(
                weights, f"{name}conv.", names, channels // 2, channels
            )
            splits.append(split.rearranged(INTERLEAVED_GAUSSIAN))
            channels *= 2
            levels.append([])
            number += 2  # The squeeze has no weights.
        else:
            break
    top = _read_top(weights, names, size, len(levels), 2 * channels)
    return FlowDescription(levels, splits, top, image_shape)


def _read_step(weights, name, channels, names):
    net = f"{name}{names.network}."
    first, second = (
        _read_conv(weights, f"{net}{number}.", names, inputs, size)
        for number, inputs, size in ((0, channels // 2, 3), (2, None, 1))
    )
    last = _read_zeros(weights, f"{net}4.", names, None, None)
    if last.bias.size == channels:  # Additive couplings have half as many.
        last = last.rearranged(INTERLEAVED_SHIFTS)
    bias, log_scale = _read_actnorm(weights, f"{name}actnorm.", channels)
    matrix = _read_matrix(weights, name, channels)
    return Step(np.exp(log_scale), bias, matrix, (first, second, last))


def _read_actnorm(weights, name, channels):
    shape = 1, channels, 1, 1
    return (
        weights.take(f"{name}{weight}", *shape).reshape(-1)
        for weight in ("bias", "logs")
    )


def _read_matrix(weights, name, channels):
    name = f"{name}invconv."
    if f"{name}weight" in weights:
        return weights.take(f"{name}weight", channels, channels)
    if f"{name}p" in weights:
        parts = ("p", "lower", "upper", "sign_s", "log_s")
        names = [f"{name}{part}" for part in parts]
        return weights.take_lu_matrix(names, channels)
    if f"{name}l" in weights:
        raise ValueError(
            "the permutations of its LU decompositions, which the port did not "
            "save, are lost"
        )
    raise ValueError(
        "it is expected to have 1x1 convolutions: the order of its shuffle, or "
        "that it is the reversal, is not in the file"
    )


def _read_conv(weights, name, names, inputs, size):
    kernel = weights.take(
        f"{name}{names.convolution}weight", None, inputs, size, size
    )
    bias, log_scale = _read_actnorm(weights, f"{name}actnorm.", len(kernel))
    return Convolution(channels_last_kernel(kernel), bias, log_scale)


def _read_zeros(weights, name, names, inputs, outputs):
    own = f"{name}{names.convolution}"
    kernel = weights.take(f"{own}weight", outputs, inputs, 3, 3)
    bias = weights.take(f"{own}bias", len(kernel))
    log_scale = 3 * weights.take(f"{name}logs", len(kernel), 1, 1).reshape(-1)
    return Convolution(channels_last_kernel(kernel), bias, log_scale)


def _read_top(weights, names, size, levels, outputs):
    height, width = (n // 2**levels for n in size)
    top = np.zeros((1, height, width, outputs))
    if f"{names.top}.logs" in weights:
        conv = _read_zeros(weights, f"{names.top}.", names, outputs, outputs)
        top = top + conv.on_zeros(height, width)
    if "project_ycond.weight" in weights:  # A linear layer of one-hot labels.
        classes = weights.take("project_ycond.weight", outputs, None).T
        classes = classes + weights.take("project_ycond.bias", outputs)
        classes *= np.exp(3 * weights.take("project_ycond.logs", outputs))
        top = top + classes[:, None, None]
    return top
