"""Finds the directions of attributes: to make a face smile, move along one."""

import keras
import numpy as np
import numpy.typing as npt

from keras_glow.checks import (
    check_floats,
    check_latents,
    check_positive,
    refuse,
)


def attribute_direction(
    z: npt.ArrayLike,
    labels: npt.ArrayLike,
    others: npt.ArrayLike | None = None,
    ridge: float | None = None,
) -> np.ndarray:
    """Find the direction from images without an attribute to those with it.

    Without `ridge` it is the mean latent of images with the attribute minus
    the mean latent of the others. It contains everything that goes together
    with the attribute in the data: glasses come with men and with age. `others`
    removes the directions of such attributes; `ridge` finds by regression which
    of the latents that differ tell the attribute best.

    In every case a strength of 1 is the distance between both means, along the
    direction.

    Args:
        z: float array `(count, D)`, latents of images, all levels.
        labels: bools or 0 and 1 `(count,)`: which have the attribute.
        others: bools or 0 and 1 `(count, k)`, other attributes, or None. Their
            directions are found in the same way, and this one is made
            orthogonal to them.
        ridge: float > 0 for ridge regression, which adds it to the variance of
            the latents, about 1; or None for the difference of means. The
            larger it is, the closer are both.

    Returns:
        float32 array `(D,)`.

    Raises:
        ValueError: if an argument is not as described, if no image or every
            image has an attribute, or if the others leave nothing of it.

    Reference:
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, 5.2 (the
        difference of means); Shen et al., 2020, Interpreting the Latent Space
        of GANs, https://arxiv.org/abs/1907.10786, 3.3 (the projection).
    """
    z = check_latents(z)
    labels = _check_binary("labels", labels, (len(z),))
    columns = labels[:, None]
    if others is not None:
        others = _check_binary("others", others, (len(z), None))
        columns = np.concatenate([columns, others], axis=1)
    differences = _differences(z, columns)
    directions = differences
    if ridge is not None:
        directions = _ridge(z, columns, check_positive("ridge", ridge))
    difference, (direction, *others) = differences[0], directions
    full_length = np.linalg.norm(direction)
    if others:
        others = np.transpose(others)
        direction = direction - others @ np.linalg.lstsq(others, direction)[0]
    length = np.linalg.norm(direction)
    if length <= 1e-6 * full_length:
        refuse("others", "other attributes than that of `labels`", labels)
    direction = direction / length
    return (direction * (direction @ difference)).astype("float32")


def apply_direction(
    model: keras.Model,
    images: npt.ArrayLike,
    direction: npt.ArrayLike,
    strength: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    context: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Move images along a direction of their latents.

    Args:
        model: a `Glow`.
        images: `(batch, height, width, channels)`.
        direction: float array `(D,)`.
        strength: float, or array of floats; 0 returns the images themselves,
            exact in every pixel.
        labels: int array `(batch,)`, for a model with classes.
        context: array `(batch, *context_shape)`, for a model with a context.

    Returns:
        Array `(*strength.shape, batch, height, width, channels)`; for a
        single strength it has the shape of the images.

    Raises:
        ValueError: naming the argument that is not as described.
    """
    direction = check_floats("direction", direction)
    if direction.shape != (model.dimensions,):
        refuse("direction", f"floats ({model.dimensions},)", direction)
    strength = check_floats("strength", strength)
    given = {"labels": labels, "context": context}
    z = model.encode(images, **given)
    edited = [
        model.decode(z + s * direction, **given) for s in strength.reshape(-1)
    ]
    return np.reshape(edited, (*strength.shape, *np.shape(images)))


def _check_binary(name, values, shape):
    """Return bools or 0 and 1, both in each column, as float64."""
    expected = f"0 and 1, both, of the shape {shape}"
    array = check_floats(name, values, expected, "biuf")
    if (
        array.ndim != len(shape)
        or array.shape[0] != shape[0]
        or not np.isin(array, (0, 1)).all()
        or np.any(array.min(axis=0) == array.max(axis=0))
    ):
        refuse(name, expected, array)
    return array.astype("float64")


def _differences(z, columns):
    """Return mean with minus mean without, per column: `(columns, D)`."""
    counts = columns.sum(axis=0)[:, None]
    sums = columns.T @ z
    return sums / counts - (z.sum(axis=0) - sums) / (len(z) - counts)


def _ridge(z, columns, ridge):
    """Return ridge coefficients, with an intercept: `(columns, D)`."""
    z = z - z.mean(axis=0, dtype="float64")
    targets = columns - columns.mean(axis=0)
    penalty = ridge * len(z)
    if len(z) < z.shape[1]:  # Both systems agree; the smaller is solved.
        inverse = np.linalg.solve(z @ z.T + penalty * np.eye(len(z)), targets)
        return inverse.T @ z
    gram = z.T @ z + penalty * np.eye(z.shape[1])
    return np.linalg.solve(gram, z.T @ targets).T
