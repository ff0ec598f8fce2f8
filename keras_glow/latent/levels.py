"""Changes the latents of single levels."""

from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

from keras_glow.checks import check_integer, check_latents, refuse
from keras_glow.flow.levels import latent_slices
from keras_glow.flow.noise import standard_deviations


def mix_levels(
    model: keras.Model,
    z: npt.ArrayLike,
    other: npt.ArrayLike,
    levels: Sequence[int],
) -> np.ndarray:
    """Replace some levels of latents by those of others.

    Coarse levels decide who and what is seen, fine ones the texture: with
    `levels=[1]` an image keeps its coarse levels and takes over the finest.

    Args:
        model: a `Glow`.
        z: float array `(batch, D)`.
        other: float array `(batch, D)`.
        levels: ints 1..`model.levels` to take from `other`; 1 is the finest.

    Returns:
        Float array `(batch, D)`.

    Raises:
        ValueError: naming the argument that is not as described.
    """
    z = check_latents(z, model.dimensions, model.dtype)
    other = check_latents(other, model.dimensions, model.dtype, "other")
    if other.shape != z.shape:
        refuse("other", f"latents of the shape {z.shape}", other)
    if not np.ndim(levels):
        refuse("levels", "a sequence of levels", levels)
    columns = latent_slices(model.latent_shapes)
    mixed = z.copy()
    for level in levels:
        level = check_integer("levels", level, 1, model.levels) - 1
        mixed[:, columns[level]] = other[:, columns[level]]
    return mixed


def apply_temperature(
    model: keras.Model, z: npt.ArrayLike, temperature: float | Sequence[float]
) -> np.ndarray:
    """Scale latents level by level; below 1 the image becomes more average.

    Args:
        model: a `Glow`.
        z: float array `(batch, D)`.
        temperature: float >= 0, or a sequence of them, one per level, finest
            first. 1 leaves z as it is.

    Returns:
        Float array `(batch, D)`.

    Raises:
        ValueError: naming the argument that is not as described.
    """
    z = check_latents(z, model.dimensions, model.dtype)
    return z * standard_deviations(temperature, model.latent_shapes)
