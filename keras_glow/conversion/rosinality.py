"""Reads checkpoints of https://github.com/rosinality/glow-pytorch."""

import numpy as np

from keras_glow.conversion.description import (
    Convolution,
    FlowDescription,
    Step,
    channels_last_kernel,
)

FIRST = "blocks.0.flows.0.actnorm.loc"
# Constants, which files hold beside the weights.
IGNORED = r".*\.(u_mask|l_mask|l_eye)"


def read(weights, size):
    """Describe the flow in a checkpoint; `size` is (height, width)."""
    levels, splits = [], []
    image_shape = (*size, weights.image_channels(FIRST, 1, None, 1, 1))
    channels = 4 * image_shape[-1]
    blocks = weights.count("blocks.")
    for block in range(blocks):
        name = f"blocks.{block}."
        flows = range(weights.count(f"{name}flows."))
        steps = [f"{name}flows.{flow}." for flow in flows]
        levels.append([_read_step(weights, step, channels) for step in steps])
        if block < blocks - 1:
            channels //= 2
        outputs = 2 * channels
        prior = _read_zero_conv(weights, f"{name}prior.", channels, outputs)
        if block < blocks - 1:
            splits.append(prior)
            channels *= 4
    height, width = (n // 2**blocks for n in size)
    return FlowDescription(
        levels, splits, prior.on_zeros(height, width)[None], image_shape
    )


def _read_step(weights, name, channels):
    actnorm, net = f"{name}actnorm.", f"{name}coupling.net."
    initialized = f"{actnorm}initialized"
    if initialized in weights and not weights.take(initialized):
        raise ValueError(f"{initialized} is 0: it was never trained")
    half = channels // 2
    network = (
        _read_conv(weights, f"{net}0.", half, None, 3),
        _read_conv(weights, f"{net}2.", None, None, 1),
        # An affine coupling has the log-scales first, then the shifts, as ours.
        _read_zero_conv(weights, f"{net}4.", None, None),
    )
    return Step(
        scale=weights.take(f"{actnorm}scale", 1, channels, 1, 1).reshape(-1),
        bias=weights.take(f"{actnorm}loc", 1, channels, 1, 1).reshape(-1),
        matrix=_read_matrix(weights, f"{name}invconv.", channels),
        network=network,
    )


def _read_matrix(weights, name, channels):
    if f"{name}weight" in weights:
        return weights.take(f"{name}weight", channels, channels, 1, 1)[
            ..., 0, 0
        ]
    parts = ("w_p", "w_l", "w_u", "s_sign", "w_s")
    names = [f"{name}{part}" for part in parts]
    return weights.take_lu_matrix(names, channels)


def _read_conv(weights, name, channels, outputs, size):
    kernel = weights.take(f"{name}weight", outputs, channels, size, size)
    outputs = len(kernel)
    bias = weights.take(f"{name}bias", outputs)
    return Convolution(channels_last_kernel(kernel), bias, np.zeros(outputs))


def _read_zero_conv(weights, name, channels, outputs):
    """Read a convolution with ones around its input.

    They are a border that all channels share.
    """
    conv = _read_conv(weights, f"{name}conv.", channels, outputs, 3)
    log_scale = 3 * weights.take(f"{name}scale", 1, conv.bias.size, 1, 1)
    return conv._replace(
        log_scale=log_scale.reshape(-1),
        border=conv.kernel.sum(axis=2, keepdims=True),
    )
