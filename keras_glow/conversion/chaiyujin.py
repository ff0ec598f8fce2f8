"""Reads checkpoints of chaiyujin's port and of y0ast's, which comes from it.

https://github.com/chaiyujin/glow-pytorch and
https://github.com/y0ast/Glow-PyTorch number all layers in one list: for each
level a squeeze, the steps and a split.
"""

import numpy as np

from keras_glow.conversion.project import Project


class Y0ast(Project):
    """See `Project`."""

    first = "flow.layers.1.block.0.conv.weight"
    first_bias = "flow.layers.1.actnorm.bias"
    # The weights of a classifier that is trained beside the flow.
    ignored = r"project_class\..*"
    network = "block.0.", "block.2.", "block.4."
    names = "conv.weight", "conv.bias", "logs"
    top = "learn_top_fn."
    classes = "project_ycond."

    def image_size(self):
        """Work out (height, width) from the shape of the last latents."""
        zeros = self.take("prior_h", *4 * [None])
        if zeros.any():
            raise ValueError("prior_h is expected to be zeros")
        levels, _ = self.layers()
        return tuple(n * 2 ** len(levels) for n in zeros.shape[2:])

    def layers(self):
        levels, splits, number = [[]], [], 1
        while True:
            name = f"flow.layers.{number}."
            if f"{name}actnorm.bias" in self.weights:
                levels[-1].append(name)
                number += 1
            elif f"{name}conv.logs" in self.weights:
                splits.append(f"{name}conv.")
                levels.append([])
                number += 2  # The squeeze has no weights.
            else:
                return levels, splits

    def actnorm(self, name, channels):
        bias = self.row(f"{name}.bias", channels)
        return bias, np.exp(self.row(f"{name}.logs", channels))

    def matrix(self, name, channels):
        name = f"{name}invconv."
        if f"{name}weight" in self.weights:
            return self.take(f"{name}weight", channels, channels)
        if f"{name}p" in self.weights:
            parts = ("p", "lower", "upper", "sign_s", "log_s")
            return self.lu_matrix([f"{name}{part}" for part in parts], channels)
        if f"{name}l" in self.weights:
            raise ValueError(
                "the permutations of its LU decompositions, which the port did "
                "not save, are lost"
            )
        raise ValueError(
            "it is expected to have 1x1 convolutions: the order of its "
            "shuffle, or that it is the reversal, is not in the file"
        )

    def class_weights(self, outputs):
        weights = self.take(f"{self.classes}weight", outputs, None).T
        return weights + self.row(f"{self.classes}bias", outputs)


class Chaiyujin(Y0ast):
    """See `Project`."""

    first = "flow.layers.1.f.0.weight"
    # It saw pixel p as p / 255, we the centre of its bin, (p - 127.5) / 256.
    scale_and_bias = 256 / 255, 0.5
    network = "f.0.", "f.2.", "f.4."
    names = "weight", "bias", "logs"
    top = "learn_top."
