"""The arithmetic of levels: the one place that knows what each level holds."""

import itertools
import math
import typing


class LevelShape(typing.NamedTuple):
    """One level of a Glow."""

    height: int  # of its squeezed images
    width: int
    channels: int  # in its steps of flow
    latent_channels: int  # that leave the flow at its end; all at the top

    @property
    def latent_shape(self):
        """Shape of the latent that leaves, (height, width, channels)."""
        return self.height, self.width, self.latent_channels


def level_shapes(image_shape, levels):
    """Returns the `LevelShape` of every level, finest first.

    A squeeze halves height and width and turns one channel into four; at the
    end of each level but the top, half of the channels leave.
    """
    height, width, channels = image_shape
    shapes = []
    for level in range(1, levels + 1):
        height, width, channels = height // 2, width // 2, channels * 4
        latent = channels // 2 if level < levels else channels
        shapes.append(LevelShape(height, width, channels, latent))
        channels -= latent
    return shapes


def level_depths(levels, depth):
    """Returns the steps of flow of every level, finest first."""
    return (depth,) * levels if isinstance(depth, int) else tuple(depth)


def latent_shapes(image_shape, levels):
    """Returns the shape of each level's latent, finest first."""
    return [level.latent_shape for level in level_shapes(image_shape, levels)]


def latent_slices(latent_shapes):
    """Returns the slice of each level's latent in z, finest first."""
    sizes = [math.prod(shape) for shape in latent_shapes]
    stops = itertools.accumulate(sizes)
    return [slice(n - size, n) for n, size in zip(stops, sizes, strict=True)]
