"""A Glow of another project, described in one way, and the `Glow` made of it.

All of them are the same flow up to conventions: every convention that differs
from ours is absorbed in weights here, or by what reads the checkpoint.
"""

import itertools
import re
import typing

import numpy as np

from keras_glow.files.weights_layout import MAX_STORED_LOG_SCALE
from keras_glow.glow import Glow
from keras_glow.layers.invertible_conv import plu_decomposition
from keras_glow.layers.split import MAX_LOG_SIGMA


class Convolution(typing.NamedTuple):
    """`exp(log_scale) * (conv(x, kernel) + bias)`.

    Attributes:
        kernel: `(height, width, channels, outputs)`.
        bias: `(outputs,)`.
        log_scale: `(outputs,)`.
        border: `(3, 3, 1, outputs)`, the kernel of the channel that is 1
            outside the image, see `keras_glow.layers.convolution`; or None.
    """

    kernel: np.ndarray
    bias: np.ndarray
    log_scale: np.ndarray
    border: np.ndarray | None = None

    def rearranged(self, parts):
        """The same with the outputs of one slice after another."""

        def rearrange(array):
            if array is None:
                return None
            return np.concatenate([array[..., p] for p in parts], axis=-1)

        return Convolution(*map(rearrange, self))

    def kernel_for(self, with_border):
        """The kernel that `keras_glow.layers.convolution.convolve` takes."""
        if not with_border:
            return self.kernel
        border = self.border
        if border is None:
            border = np.zeros((3, 3, 1, self.bias.size))
        return np.concatenate([self.kernel, border], axis=2)

    def of_zeros(self, height, width):
        """What it makes of an image of zeros: `(height, width, outputs)`."""
        outside = np.pad(np.zeros((height, width)), 1, constant_values=1)
        total = np.zeros((height, width, self.bias.size))
        if self.border is not None:
            for i, j in np.ndindex(3, 3):
                part = outside[i : i + height, j : j + width, None]
                total += part * self.border[i, j, 0]
        return (total + self.bias) * np.exp(self.log_scale)


class Step(typing.NamedTuple):
    """A step of flow: `scale * (x + bias)`, `matrix @ x`, then the coupling.

    The first half of the channels conditions the second. The last of the three
    convolutions gives the h of `sigmoid(h + 2)` for each channel, then the
    shifts; of an additive coupling the shifts alone.
    """

    scale: np.ndarray
    bias: np.ndarray
    matrix: np.ndarray
    network: tuple  # of three Convolution


class Original(typing.NamedTuple):
    """All of a Glow whose squeeze makes channel `4 c + 2 i + j` of a pixel.

    The pixel is in row i and column j of its block, and c is its channel.

    Attributes:
        levels: list of lists of `Step`, finest level first.
        splits: a `Convolution` for each level but the last: of the first half
            of the channels, it gives the means of the second, then their
            log-scales.
        top: means, then log-scales of the last latents:
            `(1 or classes, height, width, 2 * channels)`.
        image_shape: (height, width, channels).
    """

    levels: list
    splits: list
    top: np.ndarray
    image_shape: tuple


def with_inputs_first(kernel):
    """A kernel of PyTorch, (outputs, inputs, height, width), in our order."""
    return kernel.transpose(2, 3, 1, 0)


def lu_matrix(p, lower, upper, sign, log_s):
    """`P (L + I) (U + diag(sign exp(log_s)))` of the strict triangles."""
    lower = np.tril(lower, -1) + np.eye(len(p))
    return p @ lower @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_s)))


def take_lu_matrix(weights, names, channels):
    """`lu_matrix` of the `Weights` of these five names."""
    square, row = (channels, channels), (channels,)
    shapes = square, square, square, row, row
    return lu_matrix(
        *(weights.take(n, *s) for n, s in zip(names, shapes, strict=True))
    )


# Where the outputs of ports that interleave them stand: shifts are even and h
# odd, means even and log-scales odd.
INTERLEAVED_SHIFTS = slice(1, None, 2), slice(0, None, 2)
INTERLEAVED_GAUSSIAN = slice(0, None, 2), slice(1, None, 2)


def squeeze_order(channels):
    """The channel of the original that each channel of our squeeze holds."""
    return np.arange(channels).reshape(-1, 4).T.reshape(-1)


def to_glow(original, bits, input_scale, input_bias, dtype):
    """The `Glow` that does the same.

    Args:
        original: an `Original`.
        bits: int 1..8.
        input_scale: float; the original's image is
            `input_scale * x + input_bias` of ours.
        input_bias: float.
        dtype: `"float32"` or `"float64"`.

    Raises:
        ValueError: if it is none of ours.
    """
    depths = {len(steps) for steps in original.levels}
    if len(depths) != 1 or 0 in depths:
        raise ValueError("its levels are expected to have as many steps each")
    network = original.levels[0][0].network
    half = original.levels[0][0].matrix.shape[0] // 2
    border = any(conv.border is not None for conv in network)
    model = Glow(
        original.image_shape,
        levels=len(original.levels),
        depth=len(original.levels[0]),
        width=network[0].bias.size,
        coupling="additive" if network[2].bias.size == half else "affine",
        bits=bits,
        num_classes=len(original.top) if len(original.top) > 1 else None,
        class_priors="top",
        scale="sigmoid",
        border=border,
        dtype=dtype,
    )
    layers = iter(model.bijections)
    for level, steps in enumerate(original.levels):
        next(layers)  # the squeeze
        for number, step in enumerate(steps):
            if number == 0:
                step = _squeezed_by_us(step)
                if level == 0:
                    step = _of_our_images(step, input_scale, input_bias)
            _fill_step(next(layers), step, border)
        if level < len(original.splits):
            split, layer = original.splits[level], next(layers)
            scale = np.exp(split.log_scale)
            layer.kernel.assign(split.kernel_for(border) * scale)
            layer.bias.assign(split.bias * scale)
    _fill_prior(next(layers), original.top)
    return model


def _squeezed_by_us(step):
    order = squeeze_order(step.bias.size)
    return step._replace(
        scale=step.scale[order],
        bias=step.bias[order],
        matrix=step.matrix[:, order],
    )


def _of_our_images(step, scale, bias):
    return step._replace(
        scale=step.scale * scale, bias=(step.bias + bias) / scale
    )


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
    _fill_actnorm(network.norm_1, first.bias, first.log_scale)
    network.kernel_2.assign(second.kernel[0, 0])
    _fill_actnorm(network.norm_2, second.bias, second.log_scale)
    scale = np.exp(last.log_scale)
    network.kernel_3.assign(last.kernel_for(border) * scale)
    network.bias_3.assign(last.bias * scale)


def _fill_actnorm(layer, bias, log_scale):
    layer.bias.assign(bias)
    layer.log_scale.assign(log_scale)
    layer.initialized.assign(1)


def _fill_prior(layer, top):
    mu, log_sigma = np.split(top, 2, axis=-1)
    if np.abs(log_sigma).max() > MAX_LOG_SIGMA:
        raise ValueError(
            "the log-scales of the last latents are expected to be within "
            f"{MAX_LOG_SIGMA:g}. Received: {np.abs(log_sigma).max():g}"
        )
    layer.mu.assign(mu)
    layer.log_sigma.assign(log_sigma)


def _log(scales):
    """Log of what must not be 0, or the step has no inverse."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_scales = np.log(scales)
    if not np.all(
        np.abs(log_scales) <= MAX_STORED_LOG_SCALE
    ):  # nan is refused too
        raise ValueError("a step of flow has no inverse, or hardly one")
    return log_scales


class Weights:
    """The weights of a checkpoint, taken one by one.

    Args:
        arrays: mapping from names to arrays.
        prefix: what stands before every name.
        ignored: regular expression of the names that need not be taken.
    """

    def __init__(self, arrays, prefix, ignored):
        self._arrays = arrays
        self._prefix = prefix
        names = {n.removeprefix(prefix) for n in arrays if n.startswith(prefix)}
        self._left = {n for n in names if not re.fullmatch(ignored, n)}
        self.names = frozenset(self._left)

    def __contains__(self, name):
        return name in self.names

    def take(self, name, *shape):
        """A weight in float64.

        Args:
            name: without the prefix.
            *shape: ints; None for any number.

        Raises:
            ValueError: if it is missing, of another shape, or not finite.
        """
        if name not in self.names:
            raise ValueError(f"weight {name} is missing")
        self._left.discard(name)
        value = np.asarray(self._arrays[self._prefix + name])
        if len(value.shape) != len(shape) or any(
            n not in (None, m) for n, m in zip(shape, value.shape, strict=True)
        ):
            raise ValueError(
                f"weight {name} is expected to be of shape {shape}. "
                f"Received: {value.shape}"
            )
        if value.dtype.kind not in "iufb" or not np.isfinite(value).all():
            raise ValueError(f"weight {name} is expected to be finite numbers")
        return value.astype("float64")

    def image_channels(self, name, *shape):
        """The channels of the image: a fourth of those of the first step."""
        channels = self.take(name, *shape).size
        if channels < 4 or channels % 4:
            raise ValueError(f"{name} is expected to be of 4, 8, ... channels")
        return channels // 4

    def count(self, start):
        """How many of `start + "0"`, `start + "1"`, ... begin names."""
        found = {
            n.removeprefix(start) for n in self.names if n.startswith(start)
        }
        found = {re.match(r"\d*", name)[0] for name in found}
        return next(n for n in itertools.count() if str(n) not in found)

    def finish(self):
        """Refuses a checkpoint with weights that were not taken."""
        if self._left:
            raise ValueError(
                f"weight {min(self._left)} is none of such a model"
            )
