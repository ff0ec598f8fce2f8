"""`keras_glow.latent`: what each function does, judged by a number."""

import gc
import importlib
import io
import weakref

import keras
import numpy as np
import pytest
from helpers import move_weights, random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import keras_glow
from keras_glow import latent
from keras_glow.flow.initialization import initialize
from keras_glow.latent.restoration import _with_block_means

SHAPE = (8, 8, 3)
D = 192
IMAGES = random_images(256, SHAPE) // 2 + 64


def glow(images, **kwargs):
    """A small Glow, ActNorm set from images, its weights off their start."""
    model = keras_glow.Glow(SHAPE, levels=2, depth=1, width=8, **kwargs)
    x = model.dequantize(images, seed=0)
    labels = np.zeros(len(x), "int32")
    initialize(model.encoder, [x, labels] if model.num_classes else x)
    move_weights(model, 0.05)
    return model


@pytest.fixture(scope="module")
def model():
    return glow(IMAGES)


@pytest.fixture(scope="module")
def linear():
    """A model of Gaussian images, and `M, c` of its `x = M z + c`."""
    model = glow(IMAGES)
    for weight in model.trainable_weights:
        # The last kernels of the networks: what is left are constants.
        if weight.path.endswith(("kernel_3", "split_1/kernel")):
            weight.assign(np.zeros(weight.shape))
    x = model.decoder.predict(np.eye(D + 1, D, dtype="float32"), verbose=0)
    x = x.reshape(D + 1, D).astype("float64")
    return model, (x[:D] - x[D]).T, x[D]


# Between latents


def angles(z, to):
    cosines = z @ to / np.linalg.norm(z, axis=1) / np.linalg.norm(to)
    return np.arccos(np.clip(cosines, -1, 1))


@pytest.mark.parametrize("closed", [False, True])
def test_the_way_through_latents_visits_each(closed):
    weights = latent.path_weights(3, 4, closed)
    assert weights.shape == (4 * (2 + closed) + 1, 3)
    visited = np.eye(3)[[0, 1, 2, 0][: 3 + closed]]
    assert_array_equal(weights[::4], visited)
    assert_allclose(np.abs(np.diff(weights, axis=0)).max(axis=1), 0.25)
    for arguments in ((1, 4), (3, 0), (3, 4, "yes")):
        with pytest.raises(ValueError, match="`(count|steps|closed)`"):
            latent.path_weights(*arguments)


def test_linear_interpolation():
    a, b = z = np.random.normal(size=(2, D)).astype("float32")
    between = latent.interpolate(z, [0, 0.25, 1, 1.5])
    assert between.dtype == "float32"
    assert_array_equal(between[[0, 2]], z)
    assert_allclose(between[1], 0.75 * a + 0.25 * b, atol=1e-6)
    assert_allclose(between[3], 1.5 * b - 0.5 * a, atol=1e-6)
    z = np.random.normal(size=(3, D))
    (mean,) = latent.interpolate(z, [[0.5, 0.3, 0.2]])
    assert_allclose(mean, 0.5 * z[0] + 0.3 * z[1] + 0.2 * z[2], atol=1e-6)


def test_spherical_interpolation_turns_evenly_and_keeps_the_norm():
    z = np.random.normal(size=(2, D)).astype("float32")
    z *= [[3], [1]] / np.linalg.norm(z, axis=1, keepdims=True)
    shares = np.linspace(0, 1, 5)
    between = latent.interpolate(z, shares, spherical=True)
    assert_array_equal(between[[0, -1]], z)
    assert_allclose(np.linalg.norm(between, axis=1), 3 - 2 * shares, rtol=1e-6)
    whole = angles(z[1:], z[0])[0]
    assert whole > 1
    assert_allclose(angles(between, z[0]), shares * whole, atol=1e-3)


def test_spherical_mean_of_many():
    # Of three axes, all weights alike, it is equally far from each.
    mean = latent.interpolate(np.eye(3, 8), [[1 / 3] * 3], spherical=True)
    assert_allclose(mean[0, :3], [3**-0.5] * 3, rtol=1e-6)
    # What makes it the mean: the weighted steps from it to all cancel out.
    z = np.random.normal(size=(4, D))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    (mean,) = latent.interpolate(z, [weights], spherical=True)
    steps = z - (z @ mean)[:, None] * mean
    steps *= (angles(z, mean) / np.linalg.norm(steps, axis=1))[:, None]
    assert_allclose(weights @ steps, 0, atol=1e-6)
    assert np.linalg.norm(mean) == pytest.approx(1, abs=1e-6)


def test_random_walk_keeps_the_temperature_and_turns_by_the_angle():
    z = 0.7 * np.random.normal(size=(3, 4000)).astype("float32")
    walk = latent.random_walk(z, 50, angle=0.2, temperature=0.7, seed=1)
    assert walk.shape == (51, 3, 4000)
    assert_array_equal(walk[0], z)
    assert_allclose(walk.std(axis=2), 0.7, rtol=0.06)
    for before, after in zip(walk, walk[1:], strict=False):
        turned = [angles(b[None], a)[0] for a, b in zip(before, after)]  # noqa: B905
        assert_allclose(turned, 0.2, atol=0.02)
    # It gets away, and walk i does not depend on the others.
    assert angles(walk[-1, :1], z[0]) > 1.1
    alone = latent.random_walk(z[:1], 50, angle=0.2, temperature=0.7, seed=1)
    assert_array_equal(alone[:, 0], walk[:, 0])


# Levels


def test_mix_levels_and_temperatures_reach_their_level_only(model):
    z, other = model.encode(IMAGES[:2]), model.encode(IMAGES[2:4])
    fine = np.arange(D) < 96
    mixed = latent.mix_levels(model, z, other, [1])
    assert_array_equal(mixed, np.where(fine, other, z))
    assert_array_equal(latent.mix_levels(model, z, other, [1, 2]), other)
    assert_array_equal(latent.mix_levels(model, z, other, []), z)
    scaled = latent.apply_temperature(model, z, [0.0, 0.5])
    assert_array_equal(scaled, np.where(fine, 0, z / 2))


# Directions


def labelled(count=4000, dimensions=32):
    """Latents with two attributes that often come together."""
    rng = np.random.default_rng(0)
    a = rng.random(count) < 0.5
    b = np.where(rng.random(count) < 0.8, a, ~a)
    true = np.eye(2, dimensions) * [[1.0], [2.0]]
    z = rng.normal(size=(count, dimensions))
    return z + np.stack([a, b], axis=1) @ true, a, b


def test_the_difference_of_means_brings_along_what_goes_together():
    z, a, b = labelled()
    direction = latent.attribute_direction(z, a)
    assert_allclose(direction, z[a].mean(0) - z[~a].mean(0), atol=1e-5)
    # 1 of its own; 2 x 0.6 of the other, that a has more often by 0.6.
    assert_allclose(direction[:2], [1, 1.2], atol=0.15)
    assert_allclose(direction[2:], 0, atol=0.15)


@pytest.mark.parametrize("ridge", [None, 0.1])
def test_orthogonal_to_other_attributes(ridge):
    z, a, b = labelled()
    other = latent.attribute_direction(z, b, ridge=ridge)
    direction = latent.attribute_direction(z, a, b[:, None], ridge)
    cosine = direction @ other / np.linalg.norm(direction)
    assert abs(cosine) < 1e-5 * np.linalg.norm(other)
    # Strength 1 is as far as the means are apart along it.
    apart = (z[a].mean(0) - z[~a].mean(0)) @ direction
    assert apart == pytest.approx(direction @ direction, rel=1e-4)
    with pytest.raises(ValueError, match="`others` is expected"):
        latent.attribute_direction(z, a, a[:, None], ridge)


@pytest.mark.parametrize("count", [20, 4000])  # fewer than D; more
def test_ridge_regression(count):
    z, a, _ = labelled(count)
    direction = latent.attribute_direction(z, a, ridge=0.5)
    centred, target = z - z.mean(0), a - a.mean()
    w = np.linalg.inv(centred.T @ centred + 0.5 * count * np.eye(32))
    w = w @ centred.T @ target
    cosine = direction @ w / np.linalg.norm(direction) / np.linalg.norm(w)
    assert cosine == pytest.approx(1, abs=1e-6)
    # The larger, the closer to the difference of means.
    plain = latent.attribute_direction(z, a)
    assert_allclose(
        latent.attribute_direction(z, a, ridge=1e5), plain, atol=1e-3
    )
    assert np.abs(direction - plain).max() > 0.05


def test_an_attribute_of_images_is_found_and_applied(model):
    bright = IMAGES.mean((1, 2, 3))
    bright = bright > np.median(bright)
    direction = latent.attribute_direction(model.encode(IMAGES), bright)
    dark = IMAGES[~bright][:32]
    strengths = np.array([0.0, 0.5, 1.0])
    edited = latent.apply_direction(model, dark, direction, strengths)
    assert edited.shape == (3, 32, *SHAPE)
    assert_array_equal(edited[0], dark)
    brightness = edited.mean((1, 2, 3, 4))
    expected = IMAGES[bright].mean() - IMAGES[~bright].mean()
    assert_allclose(brightness - brightness[0], strengths * expected, rtol=0.25)
    assert_array_equal(
        latent.apply_direction(model, dark, direction, 1), edited[2]
    )
    back = latent.apply_direction(model, dark, direction, -0.5)
    assert back.mean() < dark.mean()


# The score


def test_the_score_of_a_gaussian_model(linear):
    model, matrix, mean = linear
    x = model.dequantize(IMAGES[:5], seed=0)
    scores = latent.score(model, x, batch_size=2)
    centred = x.reshape(5, D) - mean
    expected = -np.linalg.solve(matrix @ matrix.T, centred.T).T
    scale = np.abs(expected).max()
    assert_allclose(scores.reshape(5, D), expected, atol=1e-3 * scale)


def test_the_score_is_the_slope_of_the_log_likelihood(model):
    x = model.dequantize(IMAGES[:4], seed=0)
    scores = latent.score(model, x)
    lengths = np.linalg.norm(scores.reshape(4, D), axis=1)
    step = 1e-3 * scores / lengths.reshape(4, 1, 1, 1)
    rise = to_numpy(model.scorer(x + step)) - to_numpy(model.scorer(x - step))
    assert lengths.min() > 20
    assert_allclose(rise, 2e-3 * lengths, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["remat", "reversible"])
def test_the_score_does_not_depend_on_memory(model, memory):
    other = glow(IMAGES, memory=memory)
    other.set_weights(model.get_weights())
    x = model.dequantize(IMAGES[:2], seed=0)
    expected = latent.score(model, x)
    scale = np.abs(expected).max()
    assert_allclose(latent.score(other, x), expected, atol=1e-3 * scale)


def test_the_score_is_traced_once_and_follows_the_weights(monkeypatch):
    # The function hides the module of its name.
    module = importlib.import_module("keras_glow.latent.score")
    differentiate, traces = module.differentiate, []

    def count_and_differentiate(*arguments):
        traces.append(arguments)
        return differentiate(*arguments)

    monkeypatch.setattr(module, "differentiate", count_and_differentiate)
    model, other = glow(IMAGES), glow(IMAGES // 2)
    x = model.dequantize(IMAGES[:3], seed=0)
    before = latent.score(model, x)
    assert_array_equal(latent.score(model, x), before)
    model.set_weights(other.get_weights())
    after = latent.score(model, x)
    if keras.backend.backend() != "torch":  # which compiles nothing
        assert len(traces) == 1
    scale = np.abs(after).max()
    assert np.abs(after - before).max() > 0.01 * scale
    assert_allclose(after, latent.score(other, x), atol=1e-5 * scale)
    gone = weakref.ref(model)
    del model
    traces.clear()
    gc.collect()
    assert gone() is None


def test_denoising_a_gaussian_gives_the_posterior_mean(linear):
    model, matrix, mean = linear
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    sigma = 6.0  # grey levels
    variance = (sigma / 256) ** 2
    # Images that have the model's density with the noise, not without.
    clean_values = values - variance
    assert clean_values.min() > 0
    rng = np.random.default_rng(1)
    clean = mean + rng.normal(size=(200, D)) * np.sqrt(clean_values) @ vectors.T
    noisy = clean + sigma / 256 * rng.normal(size=clean.shape)
    assert np.mean(np.abs(noisy) < 0.5) > 0.99
    noisy = model.quantize(np.reshape(noisy, (-1, *SHAPE)))
    denoised = latent.denoise(model, noisy, sigma)
    x = model.dequantize(noisy, seed="center").reshape(-1, D)
    gain = np.eye(D) - variance * np.linalg.inv(matrix @ matrix.T)
    expected = mean + (x - mean) @ gain
    expected = model.quantize(expected.reshape(noisy.shape))
    assert np.abs(denoised.astype(int) - expected).max() <= 1

    def error(images):
        x = model.dequantize(images, seed="center").reshape(-1, D)
        return np.mean((x - clean) ** 2)

    # What is left of the noise, by the closed form.
    left = variance * np.trace(gain) / D
    assert left < 0.9 * variance
    assert error(denoised) == pytest.approx(left, rel=0.06)


# Restoration


def test_inpainting_draws_from_the_posterior_of_a_gaussian(linear):
    model, matrix, mean = linear
    known = np.arange(8) % 2 == np.zeros((8, 1))
    temperature, sigma = 0.7, 4.0
    z = temperature * np.random.default_rng(3).normal(size=(1, D))
    image = model.decode(z)
    found, convergence = latent.inpaint(
        model,
        image,
        known,
        draws=300,
        sigma=sigma,
        temperature=temperature,
        learning_rate=0.1,
        seed=0,
        batch_size=300,
    )
    assert found.shape == (1, 300, *SHAPE)
    assert np.all(found[:, :, known] == image[:, None, known])
    # The loss ends flat, and what is known is met to within its error.
    assert convergence.loss.shape == (101, 1, 300)
    tail = convergence.loss[-20] - convergence.loss[-1]
    assert np.all(tail < 0.01 * convergence.loss[-1])
    assert 0.5 * sigma < convergence.error.mean() < 1.5 * sigma
    # p(z | y) in closed form, and from it the unknown pixels, in grey levels.
    seen = np.broadcast_to(known[..., None], SHAPE).reshape(-1)
    a = matrix[seen]
    gain = a.T @ np.linalg.inv(
        a @ a.T + (sigma / 256 / temperature) ** 2 * np.eye(len(a))
    )
    y = model.dequantize(image, seed="center").reshape(-1)[seen]
    mean_z = gain @ (y - mean[seen])
    covariance_z = temperature**2 * (np.eye(D) - gain @ a)
    covariance = matrix @ covariance_z @ matrix.T
    deviations = 256 * np.sqrt(np.diag(covariance))[~seen]
    posterior = 256 * (mean + matrix @ mean_z + 0.5)[~seen]
    draws = found[0].reshape(300, D)[:, ~seen] + 0.5
    errors = (draws.mean(0) - posterior) / deviations * np.sqrt(300)
    assert errors.std() < 1.3 and np.abs(errors).max() < 5
    ratios = draws.std(0) / deviations
    assert_allclose(np.median(ratios), 1, atol=0.05)
    assert_allclose(ratios, 1, atol=0.3)
    # The prior would be far off: the known pixels have told much.
    prior = 256 * (mean + 0.5)[~seen]
    assert np.abs((prior - posterior) / deviations).max() > 1
    prior_deviations = 256 * temperature * np.linalg.norm(matrix, axis=1)
    assert np.median(deviations / prior_deviations[~seen]) < 0.9


@pytest.mark.slow
def test_known_pixels_stay_whatever_the_model(model):
    known = np.zeros((2, 8, 8), bool)
    known[0, :4], known[1, :, 3:] = True, True
    images = IMAGES[:2].copy()
    settings = {"draws": 2, "steps": 20, "seed": 0}
    found, convergence = latent.inpaint(model, images, known, **settings)
    for one, image, mask in zip(found, images, known, strict=True):
        assert_array_equal(one[:, mask], np.stack([image[mask]] * 2))
        assert np.all(one[0, ~mask].std() > 0)
        assert np.mean(one[0, ~mask] != one[1, ~mask]) > 0.5
    assert convergence.loss.shape == (21, 2, 2)
    assert np.all(convergence.loss[-1] < convergence.loss[0])
    assert np.all(convergence.error < 3)
    # What was unknown has no part in it.
    images[~known] = 0
    again, _ = latent.inpaint(model, images, known, **settings)
    assert_array_equal(again, found)


def test_super_resolution_keeps_the_means_of_blocks(model):
    blocks = IMAGES[:2].reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
    small = np.round(blocks).astype("uint8")
    found, convergence = latent.super_resolve(
        model, small, draws=2, steps=20, seed=0
    )
    assert found.shape == (2, 2, *SHAPE)
    means = found.reshape(2, 2, 4, 2, 4, 2, 3).mean((3, 5))
    assert_array_equal(means, np.stack([small, small], axis=1))
    assert np.all(convergence.error < 3)
    assert np.all(convergence.loss[-1] < convergence.loss[0])
    assert np.mean(found[:, 0] != found[:, 1]) > 0.5


def test_block_means_at_the_ends_of_the_scale():
    rng = np.random.default_rng(0)
    images = rng.choice([0, 3, 128, 255], size=(20, 8, 12, 3)).astype("uint8")
    means = rng.choice([0, 1, 127, 254, 255], size=(20, 2, 3, 3))
    moved = _with_block_means(images, means, 4)
    assert_array_equal(moved.reshape(20, 2, 4, 3, 4, 3).mean((2, 4)), means)
    blocks = moved.reshape(20, 2, 4, 3, 4, 3).mean((2, 4)).astype("uint8")
    assert_array_equal(_with_block_means(moved, blocks, 4), moved)


@pytest.mark.slow
def test_restoring_by_class():
    model = glow(IMAGES, num_classes=2)
    mu = model.bijections[-1].mu
    shift = np.zeros(mu.shape, "float32")
    shift[1] = 6.0
    mu.assign(mu + shift)
    known = np.zeros((8, 8), bool)
    known[0, 0] = True
    found, _ = latent.inpaint(
        model, IMAGES[[0, 0]], known, labels=[0, 1], steps=20, seed=0
    )
    expected = model.sample(2, temperature=0, labels=[0, 1]).astype(int)
    found = found[:, 0].astype(int)
    assert (
        np.abs(found - expected).mean() < np.abs(found - expected[::-1]).mean()
    )


# Anomalies


def bits(model, images):
    return model.bits_per_dim(images, seed=0)


def roc_area(odd, usual):
    return np.mean(odd[:, None] > usual)


def test_where_raw_likelihood_fails_complexity_does_not(model):
    usual = random_images(64, SHAPE, seed=1) // 2 + 64
    flat = np.broadcast_to(usual[:, :1, :1], usual.shape)
    noise = np.random.default_rng(0).integers(0, 256, usual.shape)

    def area(odd, **kwargs):
        scores = [
            latent.anomaly_score(model, images, **kwargs)
            for images in (odd, usual)
        ]
        return roc_area(*scores)

    assert area(noise, method="likelihood") > 0.99
    assert area(flat, method="likelihood") < 0.4
    assert area(flat) > 0.99
    assert area(noise, method="typicality", typical=IMAGES) > 0.99


def test_scores_are_what_they_are_said_to_be(model):
    images = IMAGES[:32]
    expected = bits(model, images)
    raw = latent.anomaly_score(model, images, "likelihood")
    assert_allclose(raw, expected, rtol=1e-6)
    sizes = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=9)
        sizes.append(len(file.getvalue()))
    score = latent.anomaly_score(model, images)
    assert_allclose(score, expected - 8 * np.array(sizes) / D, rtol=1e-5)
    typical = IMAGES[100:]
    score = latent.anomaly_score(model, images, "typicality", typical=typical)
    mean = bits(model, typical).mean()
    assert_allclose(score, np.abs(expected - mean), atol=1e-5)


def test_a_ratio_to_a_background_model(model, linear):
    images, background = IMAGES[:32], linear[0]
    score = latent.anomaly_score(model, images, "ratio", background=background)
    expected = bits(model, images) - bits(background, images)
    assert np.abs(expected).min() > 1e-4
    assert_allclose(score, expected, atol=1e-5)


# Wrong use


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (
            lambda m: latent.interpolate(np.eye(2), [[0.5, 0.4]]),
            "weights",
        ),
        (lambda m: latent.interpolate(np.ones((3, 4)), [0.5]), "weights"),
        (
            lambda m: latent.interpolate(
                np.array([[1.0, 0], [-1.0, 0]]), [0.5], spherical=True
            ),
            "z",
        ),
        (lambda m: latent.interpolate(np.eye(2), [2.0], True), "weights"),
        (lambda m: latent.interpolate(np.ones(4), [0.5]), "z"),
        (lambda m: latent.random_walk(np.ones((1, 4)), -1), "steps"),
        (lambda m: latent.random_walk(np.ones((1, 4)), 1, angle=0), "angle"),
        (
            lambda m: latent.mix_levels(m, np.eye(1, D), np.eye(1, D), [0]),
            "levels",
        ),
        (
            lambda m: latent.mix_levels(m, np.eye(1, D), np.eye(2, D), [1]),
            "other",
        ),
        (
            lambda m: latent.apply_temperature(m, np.ones((1, D)), [1] * 3),
            "temperature",
        ),
        (lambda m: latent.attribute_direction(np.eye(3), [1, 1, 1]), "labels"),
        (lambda m: latent.attribute_direction(np.eye(3), [1, 0, 2]), "labels"),
        (lambda m: latent.attribute_direction(np.eye(3), [1, 0]), "labels"),
        (
            lambda m: latent.attribute_direction(np.eye(3), [1, 0, 0], ridge=0),
            "ridge",
        ),
        (
            lambda m: latent.apply_direction(m, IMAGES[:1], np.ones(3), 1.0),
            "direction",
        ),
        (
            lambda m: latent.apply_direction(m, IMAGES[:1], np.ones(D), "much"),
            "strength",
        ),
        (lambda m: latent.score(m, np.zeros((1, 4, 4, 3))), "x"),
        (lambda m: latent.denoise(m, IMAGES[:1], 0), "sigma"),
        (lambda m: latent.inpaint(m, IMAGES[:1], np.ones((8, 8))), "known"),
        (
            lambda m: latent.inpaint(m, IMAGES[:1], np.zeros((8, 8), bool)),
            "known",
        ),
        (
            lambda m: latent.inpaint(
                m, IMAGES[:1], np.ones((8, 8), bool), draws=0
            ),
            "draws",
        ),
        (
            lambda m: latent.mix_levels(
                m, *2 * [np.zeros((1, m.dimensions))], levels=1
            ),
            "levels",
        ),
        (lambda m: latent.super_resolve(m, IMAGES[:1]), "images"),
        (lambda m: latent.super_resolve(m, IMAGES[:1, :3, :3]), "images"),
        (lambda m: latent.anomaly_score(m, IMAGES[:1], "guess"), "method"),
        (lambda m: latent.anomaly_score(m, IMAGES[:1], "ratio"), "background"),
        (
            lambda m: latent.anomaly_score(m, IMAGES[:1], typical=IMAGES),
            "typical",
        ),
    ],
)
def test_wrong_use_is_named_in_one_line(model, call, name):
    with pytest.raises(ValueError, match=f"^`{name}` is expected") as error:
        call(model)
    assert "\n" not in str(error.value)
