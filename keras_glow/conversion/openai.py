"""Reads checkpoints of https://github.com/openai/glow, of TensorFlow 1."""

import numpy as np

from keras_glow.conversion.project import Project


class Openai(Project):
    """See `Project`."""

    first = first_bias = "model/0/0/actnorm_center/b"
    # Everything but the flow: the optimiser, the averages, the classifier.
    ignored = (
        r"(?!model/(\d+|pool\d+|prior)/).*|.*(_adam_|/Exp|indices_inverse).*"
    )
    network = "f1/l_1/", "f1/l_2/", "f1/l_last/"
    names = "W", "b", "logs"
    top = "model/prior/p/"
    classes = "model/prior/y_emb/"

    def layers(self):
        levels = [f"model/{n}/" for n in range(self.count("model/"))]
        steps = [
            [f"{name}{n}/" for n in range(self.count(name))] for name in levels
        ]
        return steps, [f"model/pool{n}/conv/" for n in range(len(levels) - 1)]

    def actnorm(self, name, channels):
        bias = self.row(f"{name}_center/b", channels)
        return bias, np.exp(3 * self.row(f"{name}_scale/logs", channels))

    def matrix(self, name, channels):
        if f"{name}invconv/W" in self.weights:  # It multiplied a row.
            return self.take(f"{name}invconv/W", channels, channels).T
        order = np.arange(channels)[::-1]  # Without weights it is reversed.
        if f"{name}shuffle/indices" in self.weights:
            order = self.row(f"{name}shuffle/indices", channels).astype(int)
            if not np.array_equal(np.sort(order), np.arange(channels)):
                raise ValueError(f"{name}shuffle/indices is no permutation")
        return np.eye(channels)[order]

    def kernel(self, name, inputs, outputs, size):
        """Return a kernel and its border, the last input of a 3x3 kernel."""
        if size == 1:
            return self.take(name, 1, 1, inputs, outputs), None
        kernel = self.take(name, size, size, inputs + 1, outputs)
        return kernel[:, :, :-1], kernel[:, :, -1:]

    def class_weights(self, outputs):
        weights = self.take(f"{self.classes}W", None, outputs)
        return weights + self.row(f"{self.classes}b", outputs)
