"""What the readers of other projects' checkpoints have in common."""

import itertools
import re

import numpy as np

from keras_glow.checks import shape_fits
from keras_glow.conversion.description import (
    INTERLEAVED_GAUSSIAN,
    INTERLEAVED_SHIFTS,
    Convolution,
    FlowDescription,
    Step,
)


class Project:
    """The weights of a checkpoint, each checked when it is taken, none left.

    A subclass for each project says how it names them, and defines:

    - `layers()`, the names of each level's steps, and those of the splits;
    - `actnorm(name, channels)`, the bias and the scale;
    - `matrix(name, channels)` of a step, which multiplies a column of channels;
    - `class_weights(outputs)` of the linear layer, `(classes, outputs)`.

    All numbers are float64.

    Args:
        arrays: dict of names to functions that read an array.
        prefix: str in front of every name.
    """

    first: str  # the name of a weight that only its checkpoints have
    first_bias: str  # that of the bias of the first ActNorm
    ignored: str  # regular expression of the names that are not of the flow
    network: tuple[str, ...]  # the names of a step's three convolutions
    names: tuple[str, str, str]  # of kernel, bias and logs, see `zeros`
    top: str | None = None  # the name of the convolution of the last latents
    classes: str | None = None  # that of their linear layer of one-hot labels
    # The flow sees `scale * x + bias`, where x is what every `Glow` sees.
    scale_and_bias = 1.0, 0.0
    # Whether shifts, or means, are the even outputs of a convolution, and h, or
    # log-scales, the odd ones.
    interleaved = True

    def __init__(self, arrays, prefix):
        self._arrays = arrays
        self._prefix = prefix
        names = {n.removeprefix(prefix) for n in arrays if n.startswith(prefix)}
        self._left = {n for n in names if not re.fullmatch(self.ignored, n)}
        self.weights = frozenset(self._left)

    def image_size(self):
        """Return (height, width), or None if the weights do not tell."""

    def read(self, size):
        """Describe the flow; `size` is (height, width)."""
        channels = self.row(self.first_bias).size
        if channels < 4 or channels % 4:
            raise ValueError(
                f"{self.first_bias} is expected to be of 4, 8, ... channels"
            )
        image_shape = (*size, channels // 4)
        levels, splits = [], []
        steps_of_levels, split_names = self.layers()
        for steps, split in itertools.zip_longest(steps_of_levels, split_names):
            levels.append([self._step(name, channels) for name in steps])
            if split is not None:
                conv = self.zeros(split, channels // 2, channels)
                if self.interleaved:
                    conv = conv.rearranged(INTERLEAVED_GAUSSIAN)
                splits.append(conv)
                channels *= 2
        height, width = (n // 2 ** len(levels) for n in size)
        top = self.top_prior(height, width, channels)
        if self._left:
            raise ValueError(
                f"weight {min(self._left)} is none of such a model"
            )
        return FlowDescription(levels, splits, top, image_shape)

    def _step(self, name, channels):
        bias, scale = self.actnorm(f"{name}actnorm", channels)
        first, second, last = (f"{name}{part}" for part in self.network)
        first = self.convolution(first, channels // 2, 3)
        second = self.convolution(second, first.bias.size, 1)
        last = self.zeros(last, second.bias.size, None)
        # Additive couplings have half as many outputs.
        if self.interleaved and last.bias.size == channels:
            last = last.rearranged(INTERLEAVED_SHIFTS)
        network = first, second, last
        return Step(bias, scale, self.matrix(name, channels), network)

    def convolution(self, name, inputs, size):
        """Return a `Convolution` with an ActNorm behind it."""
        kernel, border = self.kernel(
            f"{name}{self.names[0]}", inputs, None, size
        )
        norm = self.actnorm(f"{name}actnorm", kernel.shape[-1])
        return Convolution(kernel, *norm, border)

    def zeros(self, name, inputs, outputs):
        """Return a 3x3 `Convolution` that started with zeros."""
        kernel, bias, logs = (f"{name}{part}" for part in self.names)
        kernel, border = self.kernel(kernel, inputs, outputs, 3)
        outputs = kernel.shape[-1]
        bias, logs = self.row(bias, outputs), self.row(logs, outputs)
        return Convolution(kernel, bias, np.exp(3 * logs), border)

    def kernel(self, name, inputs, outputs, size):
        """Return a kernel of PyTorch in the order of ours, and its border."""
        kernel = self.take(name, outputs, inputs, size, size)
        return kernel.transpose(2, 3, 1, 0), None

    def top_prior(self, height, width, channels):
        """Return `FlowDescription.top`."""
        outputs = 2 * channels
        top = np.zeros((1, height, width, outputs))
        if f"{self.top}{self.names[-1]}" in self.weights:
            conv = self.zeros(self.top, outputs, outputs)
            top = top + conv.on_zeros(height, width)
        if f"{self.classes}logs" in self.weights:
            classes = self.class_weights(outputs)
            classes *= np.exp(3 * self.row(f"{self.classes}logs", outputs))
            top = top + classes[:, None, None]
        return top

    def take(self, name, *shape):
        """Return a weight of a shape, in which None is any number."""
        value = self._numbers(name)
        if not shape_fits(value.shape, shape):
            self._refuse_shape(name, shape, value)
        return value

    def row(self, name, count=None):
        """Return a weight along one axis, whatever axes of 1 are beside it."""
        value = self._numbers(name)
        if value.size not in value.shape or count not in (None, value.size):
            self._refuse_shape(name, (count,), value)
        return value.reshape(-1)

    def _numbers(self, name):
        if name not in self.weights:
            raise ValueError(f"weight {name} is missing")
        self._left.discard(name)
        value = np.asarray(self._arrays[self._prefix + name]())
        if value.dtype.kind not in "iufb" or not np.isfinite(value).all():
            raise ValueError(f"weight {name} is expected to be finite numbers")
        return value.astype("float64")

    def _refuse_shape(self, name, shape, value):
        raise ValueError(
            f"weight {name} is expected to be of shape {shape}. "
            f"Received: {value.shape}"
        )

    def lu_matrix(self, names, channels):
        """Return `P (L + I) (U + diag(sign exp(log_s)))`.

        The names are those of P, L, U, the signs and log_s; of L and U only the
        strict triangles count.
        """
        p, lower, upper = (self.take(n, channels, channels) for n in names[:3])
        sign, log_s = (self.row(n, channels) for n in names[3:])
        lower = np.tril(lower, -1) + np.eye(channels)
        return p @ lower @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_s)))

    def count(self, start):
        """Count how many of `start + "0"`, `start + "1"`, ... begin names."""
        ends = {
            n.removeprefix(start) for n in self.weights if n.startswith(start)
        }
        numbers = {re.match(r"\d*", end)[0] for end in ends}
        return next(n for n in itertools.count() if str(n) not in numbers)
