"""Reads checkpoints of https://github.com/rosinality/glow-pytorch."""

import numpy as np

from keras_glow.conversion.description import Convolution
from keras_glow.conversion.project import Project


class Rosinality(Project):
    """See `Project`."""

    first = first_bias = "blocks.0.flows.0.actnorm.loc"
    # Constants, which files hold beside the weights.
    ignored = r".*\.(u_mask|l_mask|l_eye)"
    network = "coupling.net.0.", "coupling.net.2.", "coupling.net.4."
    names = "conv.weight", "conv.bias", "scale"
    interleaved = False

    def layers(self):
        blocks = [f"blocks.{n}." for n in range(self.count("blocks."))]
        steps = [
            [f"{name}flows.{n}." for n in range(self.count(f"{name}flows."))]
            for name in blocks
        ]
        return steps, [f"{name}prior." for name in blocks[:-1]]

    def actnorm(self, name, channels):
        initialized = f"{name}.initialized"
        if initialized in self.weights and not self.take(initialized):
            raise ValueError(f"{initialized} is 0: it was never trained")
        bias = self.row(f"{name}.loc", channels)
        return bias, self.row(f"{name}.scale", channels)

    def matrix(self, name, channels):
        name = f"{name}invconv."
        if f"{name}weight" in self.weights:
            matrix = self.take(f"{name}weight", channels, channels, 1, 1)
            return matrix[..., 0, 0]
        parts = ("w_p", "w_l", "w_u", "s_sign", "w_s")
        return self.lu_matrix([f"{name}{part}" for part in parts], channels)

    def convolution(self, name, inputs, size):
        """Return a `Convolution` without an ActNorm."""
        kernel, _ = self.kernel(f"{name}weight", inputs, None, size)
        bias = self.row(f"{name}bias", kernel.shape[-1])
        return Convolution(kernel, bias, np.ones(bias.size))

    def zeros(self, name, inputs, outputs):
        """Return a `Convolution` with ones around its input.

        They are a border that all channels share.
        """
        conv = super().zeros(name, inputs, outputs)
        return conv._replace(border=conv.kernel.sum(axis=2, keepdims=True))

    def top_prior(self, height, width, channels):
        last = self.count("blocks.") - 1
        conv = self.zeros(f"blocks.{last}.prior.", channels, 2 * channels)
        return conv.on_zeros(height, width)[None]
