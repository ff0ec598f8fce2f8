"""Takes the weights of a checkpoint by name, each checked, none left over."""

import itertools
import re

import numpy as np


class Weights:
    """The weights of a checkpoint, taken one by one.

    Args:
        arrays: mapping from names to arrays.
        prefix: str in front of every name.
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
        """Return a weight in float64.

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

    def take_lu_matrix(self, names, channels):
        """Return `P (L + I) (U + diag(sign exp(log_s)))`.

        Args:
            names: of P, L, U, the signs and log_s; of L and U only the strict
                triangles count.
            channels: int, the size of the matrix.
        """
        square, row = (channels, channels), (channels,)
        shapes = square, square, square, row, row
        p, lower, upper, sign, log_s = (
            self.take(n, *s) for n, s in zip(names, shapes, strict=True)
        )
        lower = np.tril(lower, -1) + np.eye(channels)
        return p @ lower @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_s)))

    def image_channels(self, name, *shape):
        """Return the channels of the image: a fourth of the first step's."""
        channels = self.take(name, *shape).size
        if channels < 4 or channels % 4:
            raise ValueError(f"{name} is expected to be of 4, 8, ... channels")
        return channels // 4

    def count(self, start):
        """Count how many of `start + "0"`, `start + "1"`, ... begin names."""
        ends = {
            n.removeprefix(start) for n in self.names if n.startswith(start)
        }
        numbers = {re.match(r"\d*", end)[0] for end in ends}
        return next(n for n in itertools.count() if str(n) not in numbers)

    def refuse_leftovers(self):
        """Refuse a checkpoint with weights that were not taken."""
        if self._left:
            raise ValueError(
                f"weight {min(self._left)} is none of such a model"
            )
