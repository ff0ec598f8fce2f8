"""Blends latents, and walks away from them."""

import math

import numpy as np
import numpy.typing as npt

from keras_glow.checks import (
    check_boolean,
    check_floats,
    check_integer,
    check_latents,
    check_positive,
    check_seed,
    refuse,
)
from keras_glow.flow.noise import keyed_generators

MAX_ITERATIONS = 1000
TOLERANCE = 1e-12  # radians


def interpolate(
    z: npt.ArrayLike, weights: npt.ArrayLike, spherical: bool = False
) -> np.ndarray:
    """Blend the latents of two or more images.

    Normal latents lie close to a sphere. The straight line between two of them
    cuts through it: half way the temperature has dropped by a factor of
    sqrt(2), and the image is smoother, more average than both ends. The great
    circle stays on the sphere: the direction is the weighted spherical mean,
    which for two latents turns at even steps of the angle ("slerp"), and the
    norm is the weighted mean of the norms.

    Args:
        z: float array `(n, D)`, the latents to blend.
        weights: float array `(points, n)`, each row with the sum 1; for two
            latents also `(points,)`, shares of the second. All weight on one
            latent returns it exactly. Negative weights go beyond the latents,
            along straight lines only.
        spherical: bool, whether to follow great circles, not straight lines.

    Returns:
        float32 array `(points, D)`.

    Raises:
        ValueError: if an argument is not as described; on the sphere also if
            latents are zero, or opposite to each other.

    Reference:
        Shoemake, 1985, Animating Rotation with Quaternion Curves, 3.3; Buss and
        Fillmore, 2001, Spherical Averages and Applications to Spherical Splines
        and Interpolation, algorithm A1.
    """
    z = check_latents(z).astype("float64")
    weights = _check_weights(weights, len(z))
    if not spherical:
        return (weights @ z).astype("float32")
    norms = np.linalg.norm(z, axis=1)
    if np.any(weights < 0) or not norms.all():
        refuse("weights", ">= 0, of latents that are not zero", weights)
    directions = z / norms[:, None]
    means = [_spherical_mean(directions, row) for row in weights]
    return (means * (weights @ norms)[:, None]).astype("float32")


def path_weights(count: int, steps: int, closed: bool = False) -> np.ndarray:
    """Returns weights for `interpolate`: from each latent to the next.

    Args:
        count: int >= 2, latents.
        steps: int >= 1, from one latent to the next.
        closed: bool, whether the way goes back to the first in the end.

    Returns:
        float32 array `(points, count)`, beginning with the first latent; each
        latent is one of the points.

    Raises:
        ValueError: naming the argument that is not as described.
    """
    count = check_integer("count", count, 2)
    steps = check_integer("steps", steps, 1)
    legs = count if check_boolean("closed", closed) else count - 1
    way = np.arange(legs * steps + 1) / steps
    ends = np.eye(count)[np.arange(legs + 1) % count]
    start = np.minimum(way.astype(int), legs - 1)
    share = (way - start)[:, None]
    weights = (1 - share) * ends[start] + share * ends[start + 1]
    return weights.astype("float32")


def random_walk(
    z: npt.ArrayLike,
    steps: int,
    angle: float = 0.3,
    temperature: float = 0.7,
    seed: int | None = None,
) -> np.ndarray:
    """Walk away from latents in small random steps.

    `z' = cos(angle) z + sin(angle) temperature noise`. This autoregressive
    process keeps the temperature of latents that have this one at the start.

    Args:
        z: float array `(batch, D)`, where the walks begin.
        steps: int >= 0.
        angle: float > 0, about how many radians a step turns z by; pi / 2
            forgets it.
        temperature: float > 0.
        seed: int 0..2**32 - 1, or None for other walks each time. Walk i of a
            seed does not depend on the other walks.

    Returns:
        float32 array `(steps + 1, batch, D)`, beginning with z.

    Raises:
        ValueError: naming the argument that is not as described.
    """
    z = check_latents(z)
    steps = check_integer("steps", steps, 0)
    angle = check_positive("angle", angle)
    temperature = check_positive("temperature", temperature)
    generators = list(keyed_generators(check_seed(seed), range(len(z))))
    walk = np.empty((steps + 1, *z.shape), "float32")
    walk[0] = z
    for before, after in zip(walk, walk[1:], strict=False):
        for i, rng in enumerate(generators):
            noise = temperature * rng.standard_normal(z.shape[1], "float32")
            after[i] = math.cos(angle) * before[i] + math.sin(angle) * noise
    return walk


def _check_weights(weights, count):
    array = check_floats("weights", weights).astype("float64")
    if array.ndim == 1 and count == 2:
        array = np.stack([1 - array, array], axis=1)
    if (
        array.ndim != 2
        or array.shape[1] != count
        or not np.allclose(array.sum(axis=1), 1, rtol=0, atol=1e-4)
    ):
        refuse("weights", f"(points, {count}), rows with the sum 1", array)
    return array / array.sum(axis=1, keepdims=True)


def _spherical_mean(points, weights):
    """Return the point of the unit sphere where weighted steps cancel.

    These are the steps along great circles to the other points.
    """
    mean = weights @ points
    length = np.linalg.norm(mean)
    if length < 1e-6:
        refuse("z", "latents that are not opposite to each other", points)
    mean /= length
    for _ in range(MAX_ITERATIONS):
        cosines = points @ mean
        tangents = points - cosines[:, None] * mean
        sines = np.linalg.norm(tangents, axis=1)
        angles = np.arctan2(sines, cosines)
        # On the sphere the step to a point is as long as the angle to it.
        scales = np.divide(angles, sines, np.ones_like(sines), where=sines > 0)
        step = (weights * scales) @ tangents
        length = np.linalg.norm(step)
        mean = math.cos(length) * mean + np.sinc(length / math.pi) * step
        mean /= np.linalg.norm(mean)
        if length < TOLERANCE:
            break
    return mean
