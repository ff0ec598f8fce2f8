"""Measures how far samples are from real images, by features of both.

`features` is any function of a batch of images that returns an array
`(count, d)`: a network, or something simple. This choice decides which images
count as far apart, so only distances by the same function can be compared; none
of them is the published FID or KID, which use one certain Inception network.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from keras import ops


def frechet_distance(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    features: Callable | None = None,
) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to features.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)`, with the means m and
    the covariances S (divisor count - 1): "FID" when the features are those of
    Inception (Heusel et al. 2017, https://arxiv.org/abs/1706.08500, 2).

    It is biased: estimated from finitely many images it is too large, by about
    c / count, where c depends on the model (Bińkowski et al. 2018, 4; Chong and
    Forsyth 2020, https://arxiv.org/abs/1911.07023). So compare models by the
    same number of images, and compute the distance of as many other real images
    as well. `kernel_distance` has no such bias.

    Args:
        real: images `(count, ...)`, or features `(count, d)` if `features` is
            None.
        generated: images or features, as `real`; the count may be another one,
            even below d + 1, where the covariance is singular.
        features: function of images that returns their features `(count, d)`,
            or None.

    Returns:
        float >= 0, in units of the squared features; 0 for equal moments.

    Raises:
        ValueError: if there are fewer than 2 images of a kind, or if the
            features are not finite, not `(count, d)` or of two lengths d.

    Example:
    >>> features = np.random.default_rng(0).normal(size=(100, 4))
    >>> round(frechet_distance(features, features + 0.5), 9)  # 4 * 0.5**2
    1.0
    """
    real, generated = _both_features(real, generated, features)
    mean_1, root_1 = _moments(real)
    mean_2, root_2 = _moments(generated)
    # S = R' R for both, so the trace is the least |Q R1 - R2|^2 over rotations
    # Q: a Procrustes problem, which the SVD of R2 R1' solves. Unlike the
    # difference of traces it takes no root of a rounding error where S is
    # singular, is never negative and loses no digits where S1 is close to S2.
    u, _, v = np.linalg.svd(root_2 @ root_1.T)
    covariance = np.sum(np.square(u @ v @ root_1 - root_2))
    return float(np.sum(np.square(mean_1 - mean_2)) + covariance)


def kernel_distance(
    real: npt.ArrayLike,
    generated: npt.ArrayLike,
    features: Callable | None = None,
    subsets: int = 10,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy with a cubic kernel.

    `E k(x, x') + E k(y, y') - 2 E k(x, y)` over different images, with
    `k(a, b) = (a.b / d + 1)^3`: "KID" when the features are those of Inception
    (Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, 4). It is
    unbiased: between two samples of one distribution it is 0 on average, and as
    often negative as positive.

    Both sets are split at random into the same number of subsets. These have no
    image in common, so the spread of their values gives an honest error of the
    mean: the usual subsets, drawn from all images, overlap, and their spread
    gives too small an error.

    Args:
        real: see `frechet_distance`, as for `generated` and `features`.
        generated: images or features.
        features: function, or None.
        subsets: int >= 1. More subsets take less memory and estimate the error
            better; fewer estimate the distance between close distributions
            better.
        seed: int >= 0, of the subsets.

    Returns:
        Tuple of two floats: the mean over the subsets and its standard error,
        nan for one subset, whose value does not depend on the seed.

    Raises:
        ValueError: if a subset has fewer than 2 images of a kind, or if the
            features are not finite, not `(count, d)` or of two lengths d.

    Example:
    >>> real, generated = np.random.default_rng(0).normal(size=(2, 1000, 4))
    >>> distance, error = kernel_distance(real, generated)
    >>> abs(distance) < 4 * error
    True
    """
    real, generated = _both_features(real, generated, features)
    fewest = min(len(real), len(generated))
    if not 1 <= subsets <= fewest // 2:
        raise ValueError(
            "`subsets` is expected to leave 2 images or more in each, so to be "
            f"from 1 to {fewest // 2}. Received: subsets={subsets}"
        )
    rng = np.random.default_rng(seed)
    values = [
        _unbiased_discrepancy(*pair)
        for pair in zip(
            np.array_split(rng.permutation(real), subsets),
            np.array_split(rng.permutation(generated), subsets),
            strict=True,
        )
    ]
    error = np.std(values, ddof=1) / np.sqrt(subsets) if subsets > 1 else np.nan
    return float(np.mean(values)), float(error)


def _moments(features):
    """Return the mean, and a root R of the covariance, with `S = R' R`."""
    mean = features.mean(axis=0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    # QR never forms S itself, which would square the condition number.
    root = np.linalg.qr(centred, mode="r")
    # With fewer images than features it has fewer rows: zeros fill it up.
    square = np.zeros((root.shape[1], root.shape[1]))
    square[: len(root)] = root
    return mean, square


def _unbiased_discrepancy(x, y):
    """Return the U-statistic of the squared discrepancy.

    No image is compared with itself.
    """
    within = [
        (np.sum(kernel) - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))
        for kernel in (_kernel(x, x), _kernel(y, y))
    ]
    return sum(within) - 2 * np.mean(_kernel(x, y))


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _both_features(real, generated, function):
    """Return the features of both sets, float64 `(count, d)`, checked."""
    real = _features("real", real, function)
    generated = _features("generated", generated, function)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            "`real` and `generated` are expected to have features of one "
            f"length. Received: {real.shape[1]} and {generated.shape[1]}"
        )
    return real, generated


def _features(name, images, function):
    count = len(images)
    if count < 2:
        raise ValueError(
            f"`{name}` is expected to hold 2 images or more. Received: {count}"
        )
    values = images if function is None else function(images)
    values = np.asarray(ops.convert_to_numpy(values), "float64")
    if values.ndim != 2 or len(values) != count or not values.shape[1]:
        hint = "; for images pass `features`" if function is None else ""
        raise ValueError(
            f"The features of `{name}` are expected to have the shape "
            f"({count}, d){hint}. Received: shape={values.shape}"
        )
    if not np.isfinite(values).all():
        rows = np.count_nonzero(~np.isfinite(values).all(axis=1))
        raise ValueError(
            f"The features of `{name}` are expected to be finite. "
            f"Received: {rows} of {count} that are not"
        )
    return values
