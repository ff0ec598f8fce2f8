"""Fréchet and kernel distance, against closed forms and plain loops."""

import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_allclose

from keras_glow.analysis.distances import frechet_distance, kernel_distance


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def with_moments(rng, count, mean, covariance):
    """Features whose sample mean and covariance are the given ones."""
    x = rng.normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return mean + x @ whitening @ root.T


def random_covariance(rng, dimensions, rank=None):
    x = rng.normal(size=(rank or dimensions, dimensions))
    return x.T @ x


def closed_form(mean_1, covariance_1, mean_2, covariance_2):
    """By the eigenvalues of the plain product, which is not symmetric."""
    product = np.linalg.eigvals(covariance_1 @ covariance_2)
    roots = np.sqrt(np.maximum(product.real, 0)).sum()
    return (
        np.sum((mean_1 - mean_2) ** 2)
        + np.trace(covariance_1)
        + np.trace(covariance_2)
        - 2 * roots
    )


def test_frechet_of_commuting_covariances(rng):
    # Of diagonal ones it is the sum over the axes.
    deviations_1, deviations_2 = rng.uniform(0.1, 3, (2, 5))
    mean_1, mean_2 = rng.normal(size=(2, 5))
    actual = frechet_distance(
        with_moments(rng, 50, mean_1, np.diag(deviations_1**2)),
        with_moments(rng, 70, mean_2, np.diag(deviations_2**2)),
    )
    expected = (mean_1 - mean_2) ** 2 + (deviations_1 - deviations_2) ** 2
    assert_allclose(actual, expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("ranks", [(6, 6), (6, 2), (3, 2)])
def test_frechet_of_covariances_that_do_not_commute(rng, ranks):
    mean_1, mean_2 = rng.normal(size=(2, 6))
    first, second = (random_covariance(rng, 6, rank) for rank in ranks)
    assert np.abs(first @ second - second @ first).max() > 0.1
    actual = frechet_distance(
        with_moments(rng, 40, mean_1, first),
        with_moments(rng, 60, mean_2, second),
    )
    # The reference takes roots of eigenvalues that are 0 but for rounding.
    rtol = 1e-11 if ranks == (6, 6) else 1e-6
    expected = closed_form(mean_1, first, mean_2, second)
    assert_allclose(actual, expected, rtol=rtol)


def test_frechet_of_singular_covariances_by_hand():
    # Along one axis each, at right angles: nothing of the variances cancels.
    first = np.zeros((3, 4))
    first[:, 0] = [-1, 0, 1]
    second = np.zeros((3, 4))
    second[:, 1] = [-2, 0, 2]
    assert_allclose(frechet_distance(first, second), 1 + 4, rtol=1e-14)
    second[:, 0], second[:, 1] = second[:, 1], 7
    assert_allclose(frechet_distance(first, second), 1 + 49, rtol=1e-14)


@pytest.mark.parametrize("count", [2, 5, 20, 300])
def test_frechet_of_the_same_images_is_0(rng, count):
    # Fewer images than features, correlated, of very different scales.
    x = rng.normal(size=(count, 20)) @ rng.normal(size=(20, 20))
    x *= 10.0 ** np.linspace(-4, 2, 20)
    assert 0 <= frechet_distance(x, rng.permutation(x)) < 1e-13 * x.var()


def test_frechet_keeps_the_digits_of_small_distances(rng):
    # 1e-12, where the difference of the traces, of about 200, has no digit.
    x = 10 * rng.normal(size=(100, 2))
    x -= x.mean(axis=0)
    expected = np.sum((1e-7 * x.std(axis=0, ddof=1)) ** 2)
    actual = frechet_distance(x, (1 + 1e-7) * x)
    assert_allclose(actual, expected, rtol=1e-4)


def test_frechet_of_a_shift_is_its_square(rng):
    x = rng.normal(size=(30, 8))
    shift = rng.normal(size=8)
    assert_allclose(
        frechet_distance(x, x + shift), np.sum(shift**2), rtol=1e-12
    )


def test_frechet_is_symmetric_and_blind_to_order_and_rotation(rng):
    x = rng.normal(size=(30, 8))
    y = 2 * rng.normal(size=(50, 8)) ** 2
    expected = frechet_distance(x, y)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    for other in (
        frechet_distance(y, x),
        frechet_distance(rng.permutation(x), rng.permutation(y)),
        frechet_distance(x @ rotation, y @ rotation),
    ):
        assert_allclose(other, expected, rtol=1e-12)


def test_frechet_is_biased_as_documented(rng):
    # Of one distribution: the same factor fewer images, so much farther.
    few, many = (
        np.mean(
            [frechet_distance(*rng.normal(size=(2, n, 5))) for _ in range(40)]
        )
        for n in (50, 500)
    )
    assert 8 < few / many < 12.5


def brute_force(x, y):
    def kernel(a, b):
        return (sum(a * b) / len(a) + 1) ** 3

    def mean(pairs):
        values = [kernel(a, b) for a, b in pairs]
        return sum(values) / len(values)

    n, m = range(len(x)), range(len(y))
    return (
        mean((x[i], x[j]) for i in n for j in n if i != j)
        + mean((y[i], y[j]) for i in m for j in m if i != j)
        - 2 * mean((x[i], y[j]) for i in n for j in m)
    )


def test_kernel_distance_is_that_of_a_double_loop(rng):
    x, y = rng.normal(size=(13, 4)), 0.5 + rng.normal(size=(9, 4))
    actual, error = kernel_distance(x, y, subsets=1)
    assert_allclose(actual, brute_force(x, y), rtol=1e-12)
    assert np.isnan(error)
    shuffled = kernel_distance(rng.permutation(x), rng.permutation(y), None, 1)
    assert_allclose(shuffled[0], actual, rtol=1e-12)


def test_kernel_distance_of_subsets(rng):
    x, y = rng.normal(size=(13, 4)), 0.5 + rng.normal(size=(9, 4))
    deal = np.random.default_rng(5)
    deal_x, deal_y = deal.permutation(13), deal.permutation(9)
    values = [
        brute_force(x[i], y[j])
        for i, j in (
            (deal_x[:5], deal_y[:3]),
            (deal_x[5:9], deal_y[3:6]),
            (deal_x[9:], deal_y[6:]),
        )
    ]
    actual = kernel_distance(x, y, subsets=3, seed=5)
    expected = np.mean(values), np.std(values, ddof=1) / np.sqrt(3)
    assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("subsets", [1, 10])
def test_kernel_distance_has_no_bias(rng, subsets):
    # For Gaussians of mean 0 a.b has the moments 0, tr(S1 S2), 0, so
    # E k = 1 + 3 tr(S1 S2) / d^2 and the distance 3 tr((S1 - S2)^2) / d^2.
    scale = 0.5
    close, far = np.array(
        [
            [
                kernel_distance(x, y, subsets=subsets)[0],
                kernel_distance(x, scale * y, subsets=subsets)[0],
            ]
            for x, y in rng.normal(size=(300, 2, 60, 4))
        ]
    ).T
    expected = 3 * (1 - scale**2) ** 2 / 4
    for values, mean in ((close, 0), (far, expected)):
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - mean) < 4 * error
        assert error < 0.1 * expected


def test_the_standard_error_of_the_kernel_distance_is_honest(rng):
    results = np.array(
        [
            kernel_distance(x, 0.3 + y)
            for x, y in rng.normal(size=(200, 2, 100, 3))
        ]
    )
    spread = results[:, 0].std()
    typical = np.sqrt(np.mean(results[:, 1] ** 2))
    assert 0.8 < typical / spread < 1.25


def test_both_see_a_difference(rng):
    x, y = rng.normal(size=(2, 400, 6))
    assert frechet_distance(x, y + 0.5) > 3 * frechet_distance(x, y)
    distance, error = kernel_distance(x, y + 0.5)
    assert distance > 5 * error


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_features_may_be_any_function_of_images(distance):
    real = random_images(40, (8, 8, 3))
    generated = random_images(30, (8, 8, 3), seed=1)

    def colours(images):
        assert images.dtype == "uint8"
        return images.mean(axis=(1, 2), dtype="float32")

    expected = distance(colours(real), colours(generated))
    assert distance(real, generated, colours) == expected
    assert distance(real, generated, features=colours) == expected


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_errors(distance, rng):
    images = random_images(30, (4, 4, 3))
    x = rng.normal(size=(30, 3))

    def message(*args, **kwargs):
        with pytest.raises(ValueError) as error:
            distance(*args, **kwargs)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert message(x[:1], x) == (
        "`real` is expected to hold 2 images or more. Received: 1"
    )
    assert "`generated` is expected to hold 2" in message(x, x[:0])
    assert "Received: 3 and 2" in message(x, x[:, :2])
    assert "(30, d); for images pass `features`" in message(images, images)
    assert "(30, d). Received: shape=(29, 3)" in message(
        images, images, lambda images: x[1:]
    )
    broken = x.copy()
    broken[3, 1], broken[3, 2], broken[7, 0] = np.nan, np.inf, -np.inf
    assert "of `generated`" in message(x, broken)
    assert "2 of 30 that are not" in message(x, broken)


@pytest.mark.parametrize("subsets", [0, -1, 6])
def test_errors_of_subsets(rng, subsets):
    x = rng.normal(size=(30, 3))
    with pytest.raises(ValueError, match=f"1 to 5. Received: .*={subsets}"):
        kernel_distance(x, x[:11], subsets=subsets)
