"""Builds the `Glow` of a `FlowDescription`."""

import numpy as np

from keras_glow.conversion.description import Step
from keras_glow.flow.weights_layout import MAX_STORED_LOG_SCALE
from keras_glow.glow import Glow
from keras_glow.layers.invertible_conv import plu_decomposition
from keras_glow.layers.split import MAX_LOG_SIGMA


def to_glow(description, bits, input_scale, input_bias, dtype):
    """Build a `Glow` that does the same as a `FlowDescription`.

    The image that the described flow sees is `input_scale * x + input_bias`,
    where x is ours.

    Raises:
        ValueError: if no `Glow` is like this.
    """
    levels, splits = description.levels, description.splits
    depths = [len(steps) for steps in levels]
    if 0 in depths:
        raise ValueError("each of its levels is expected to have steps")
    network = levels[0][0].network
    half = levels[0][0].matrix.shape[0] // 2
    border = any(conv.border is not None for conv in network)
    classes = len(description.top)
    model = Glow(
        description.image_shape,
        levels=len(levels),
        depth=depths[0] if len(set(depths)) == 1 else depths,
        width=network[0].bias.size,
        coupling="additive" if network[2].bias.size == half else "affine",
        bits=bits,
        num_classes=classes if classes > 1 else None,
        class_priors="top",
        scale="sigmoid",
        border=border,
        dtype=dtype,
    )
    layers = iter(model.bijections)
    for level, steps in enumerate(levels):
        next(layers)  # the squeeze
        for number, step in enumerate(steps):
            if number == 0:
                step = _in_our_channel_order(step)
                if level == 0:  # for x instead of `input_scale * x + ...`
                    step = step._replace(
                        scale=step.scale * input_scale,
                        bias=(step.bias + input_bias) / input_scale,
                    )
            _fill_step(next(layers), step, border)
        if level < len(splits):
            split = next(layers)
            _fill_convolution(split.kernel, split.bias, splits[level], border)
    mu, log_sigma = np.split(description.top, 2, axis=-1)
    if np.abs(log_sigma).max() > MAX_LOG_SIGMA:
        raise ValueError(
            "the log-scales of the last latents are expected to be within "
            f"{MAX_LOG_SIGMA:g}. Received: {np.abs(log_sigma).max():g}"
        )
    prior = next(layers)
    prior.mu.assign(mu)
    prior.log_sigma.assign(log_sigma)
    return model


def _in_our_channel_order(step):
    """Return the step for the channels as our squeeze orders them."""
    order = np.arange(step.bias.size).reshape(-1, 4).T.reshape(-1)
    bias, scale = step.bias[order], step.scale[order]
    return Step(bias, scale, step.matrix[:, order], step.network)


def _fill_step(layer, step, border):
    _fill_actnorm(layer.actnorm, step.bias, _log(np.abs(step.scale)))
    # Our actnorm has no sign: the matrix takes it.
    with np.errstate(divide="ignore", invalid="ignore"):
        p, lower, upper = plu_decomposition(step.matrix * np.sign(step.scale))
    diagonal = np.diag(upper)
    convolution = layer.permutation
    convolution.p.assign(p)
    convolution.sign.assign(np.sign(diagonal))
    convolution.log_s.assign(_log(np.abs(diagonal)))
    convolution.lower.assign(np.tril(lower, -1))
    convolution.upper.assign(np.triu(upper, 1))
    first, second, last = step.network
    network = layer.coupling.network
    network.kernel_1.assign(first.kernel_for(border))
    _fill_actnorm(network.norm_1, first.bias, np.log(first.scale))
    network.kernel_2.assign(second.kernel[0, 0])
    _fill_actnorm(network.norm_2, second.bias, np.log(second.scale))
    _fill_convolution(network.kernel_3, network.bias_3, last, border)


def _fill_convolution(kernel, bias, convolution, border):
    kernel.assign(convolution.kernel_for(border) * convolution.scale)
    bias.assign(convolution.bias * convolution.scale)


def _fill_actnorm(layer, bias, log_scale):
    layer.bias.assign(bias)
    layer.log_scale.assign(log_scale)
    layer.initialized.assign(1)


def _log(scales):
    """Return the log of scales, none of which may be 0 or hardly more."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_scales = np.log(scales)
    # Written so that nan is refused as well.
    if not np.all(np.abs(log_scales) <= MAX_STORED_LOG_SCALE):
        raise ValueError("a step of flow has no inverse, or hardly one")
    return log_scales
