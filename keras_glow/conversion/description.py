"""Describes a Glow of any project in one way.

All of them are the same flow up to conventions. Whoever reads a checkpoint
absorbs the conventions of its project in the weights.
"""

import typing

import numpy as np

# Where the outputs of ports that interleave them stand: shifts are even and h
# odd, means even and log-scales odd.
INTERLEAVED_SHIFTS = slice(1, None, 2), slice(0, None, 2)
INTERLEAVED_GAUSSIAN = slice(0, None, 2), slice(1, None, 2)


class Convolution(typing.NamedTuple):
    """`scale * (conv(x, kernel) + bias)`.

    The border is the kernel of the channel that is 1 outside the image, see
    `keras_glow.layers.convolution`.
    """

    kernel: np.ndarray  # (height, width, channels, outputs)
    bias: np.ndarray  # (outputs,)
    scale: np.ndarray  # (outputs,)
    border: np.ndarray | None = None  # (3, 3, 1, outputs)

    def rearranged(self, parts):
        """Return it with the outputs of each slice after those of the last."""

        def rearrange(array):
            if array is None:
                return None
            return np.concatenate([array[..., p] for p in parts], axis=-1)

        return Convolution(*map(rearrange, self))

    def kernel_for(self, with_border):
        """Return the kernel for `keras_glow.layers.convolution.convolve`."""
        if not with_border:
            return self.kernel
        border = self.border
        if border is None:
            border = np.zeros((3, 3, 1, self.bias.size))
        return np.concatenate([self.kernel, border], axis=2)

    def on_zeros(self, height, width):
        """Return its outputs on an image of zeros: `(height, width, outputs)`.

        They are not constant: the border kernel sees where the image ends.
        """
        outside = np.pad(np.zeros((height, width)), 1, constant_values=1)
        total = np.zeros((height, width, self.bias.size))
        if self.border is not None:
            for i, j in np.ndindex(3, 3):
                part = outside[i : i + height, j : j + width, None]
                total += part * self.border[i, j, 0]
        return (total + self.bias) * self.scale


class Step(typing.NamedTuple):
    """A step of flow: `scale * (x + bias)`, `matrix @ x`, then the coupling.

    The first half of the channels conditions the second. The last of the three
    convolutions gives the h of `sigmoid(h + 2)` for each channel, then the
    shifts; that of an additive coupling gives the shifts alone.
    """

    bias: np.ndarray
    scale: np.ndarray
    matrix: np.ndarray
    network: tuple  # of three Convolution


class FlowDescription(typing.NamedTuple):
    """A whole Glow whose squeeze makes channel `4 c + 2 i + j` of a pixel.

    The pixel is in row i and column j of its block, and c is its channel. Each
    level but the last has a split, a `Convolution`: from the first half of the
    channels it computes the means of the second, then their log-scales.
    """

    levels: list  # of lists of `Step`, finest level first
    splits: list
    # Means, then log-scales: (1 or classes, height, width, 2 * channels).
    top: np.ndarray
    image_shape: tuple  # (height, width, channels)
