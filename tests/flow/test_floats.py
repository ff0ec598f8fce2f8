"""Images of floats, in units of their own."""

import keras
import numpy as np
import pytest
from helpers import EAGERLY, jacobians, move_weights, to_numpy, untraced
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import keras_glow
from keras_glow import Glow
from keras_glow.callbacks import ReconstructionError, SampleGrid
from keras_glow.data import ImageSequence
from keras_glow.files.export import standalone
from keras_glow.latent import inpaint
from keras_glow.layers import Standardize

SHAPE = (8, 8, 3)
MEANS, DEVIATIONS = np.array([3e5, 0.0, -2e-7]), np.array([4e4, 1.0, 1e-9])
SMALL = {"levels": 2, "depth": 1, "width": 8}


def floats(count=64, dtype="float32"):
    """Correlated normal numbers, each channel in another unit."""
    x = np.random.default_rng(0).normal(size=(count, *SHAPE))
    x = (x + x[:, ::-1] + x[:, :, ::-1]) / np.sqrt(3)
    return (MEANS + DEVIATIONS * x).astype(dtype)


@pytest.fixture(scope="module")
def trained():
    model = untraced(Glow(SHAPE, bits=None, **SMALL))
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    history = model.fit(
        floats(), epochs=2, validation_data=floats(), verbose=0
    ).history
    return model, history


@pytest.mark.every_backend
def test_mean_and_deviation_are_measured_once_and_saved(trained, tmp_path):
    model, _ = trained
    first = model.bijections[0]
    assert isinstance(first, Standardize)
    few = floats()  # all of them, fewer than 256
    bias, log_scale = map(to_numpy, (first.bias, first.log_scale))
    assert_allclose(-bias, few.mean((0, 1, 2), "float64"), atol=1e-6 * 3e5)
    assert_allclose(
        np.exp(-log_scale), few.std((0, 1, 2), "float64"), rtol=1e-4
    )
    weights = first.get_weights()
    model.fit(3 * floats(), verbose=0)
    for before, after in zip(weights, first.get_weights(), strict=True):
        assert_array_equal(before, after)
    model.save(tmp_path / "model.keras")
    expected = model.log_prob(floats(4))
    for load in (keras_glow.load_model, keras.saving.load_model):
        loaded = untraced(load(tmp_path / "model.keras"))
        assert loaded.bits is None
        assert_array_equal(loaded.log_prob(floats(4)), expected)


@pytest.mark.every_backend
def test_floats_come_back_to_rounding(trained, record_property):
    model, _ = trained
    images = floats()
    decoded = model.decode(model.encode(images))
    assert decoded.dtype == "float32"
    error = np.max(np.abs(decoded - images) / DEVIATIONS)
    record_property("floats: largest error, in deviations", f"{error:.0e}")
    assert error < 1e-4
    samples = model.sample(64, temperature=1.0, seed=0)
    assert samples.dtype == "float32"
    assert_allclose(samples.std((0, 1, 2)), DEVIATIONS, rtol=0.3)


@pytest.mark.every_backend
def test_the_loss_is_in_nats_of_the_units(trained):
    model, history = trained
    assert "bits_per_dim" not in history
    dimensions = np.prod(SHAPE)
    for prefix in ("", "val_"):
        assert_allclose(
            np.multiply(history[f"{prefix}nats_per_dim"], dimensions),
            history[f"{prefix}loss"],
            rtol=1e-5,
        )
    images = floats()
    log_prob = model.log_prob(images)
    loss, nats_per_dim = model.evaluate(images, verbose=0)
    assert_allclose(loss, -log_prob.mean(), rtol=1e-5)
    assert_allclose(nats_per_dim * dimensions, loss, rtol=1e-5)
    # There is no noise, so seeds and draws do not matter.
    assert_array_equal(model.log_prob(images, seed=1), log_prob)
    assert_allclose(model.log_prob(images, draws=2), log_prob, rtol=1e-6)
    log_prob_map = model.log_prob_map(images).sum((1, 2))
    assert_allclose(log_prob_map, log_prob, rtol=1e-4, atol=1e-2)


def test_the_doctor_takes_floats(trained):
    assert not trained[0].diagnose(floats(4)).problems


def test_log_prob_is_that_of_the_jacobian_in_units(float64):
    model = Glow(
        (4, 4, 2), bits=None, levels=1, depth=1, width=4, dtype="float64"
    )
    x = np.random.default_rng(0).normal(7, 5, (9, 4, 4, 2))
    model.bijections[0].adapt(x)
    move_weights(model, 0.2)

    matrix = jacobians(model.encoder, x[:1])[0]
    z = model.encode(x[:1])
    normal = -0.5 * np.sum(z**2 + np.log(2 * np.pi))
    expected = normal + np.linalg.slogdet(matrix).logabsdet
    assert_allclose(model.log_prob(x[:1]), [expected], rtol=1e-9)


def test_a_channel_that_does_not_vary_is_only_shifted():
    x = floats()
    x[..., 1] = 7.3
    layer = Standardize()
    layer.adapt(x)
    z = to_numpy(layer(x))
    assert_allclose(z[..., 1], 0, atol=1e-5)
    assert to_numpy(layer.log_scale)[1] == 0


@pytest.mark.every_backend
@pytest.mark.slow_on_jax
def test_sequences_and_callbacks_take_floats(trained, tmp_path):
    model, _ = trained
    images = floats(16)
    callbacks = [SampleGrid(tmp_path, count=2), ReconstructionError(images)]
    sequence = ImageSequence(images, batch_size=8, flip=True)
    logs = model.fit(sequence, callbacks=callbacks, verbose=0).history
    assert 0 < logs["reconstruction_error"][0] < 1e-4
    assert logs["reconstruction_error_ood"][0] < 2e-3
    with Image.open(tmp_path / "epoch_0001.png") as picture:
        assert np.asarray(picture).std() > 20


@pytest.mark.every_backend
@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, *SHAPE), "uint8"), "finite floats.*Convert by"),
        (np.zeros((2, *SHAPE), "int64"), "finite floats.*Convert by"),
        (np.full((2, *SHAPE), np.nan), "finite floats"),
        (np.full((2, *SHAPE), np.inf, "float32"), "finite floats"),
        (np.zeros((2, 8, 8, 1)), r"\(batch, 8, 8, 3\)"),
        ("images", "finite floats"),
    ],
)
def test_what_is_no_image_of_floats_is_refused(trained, images, said):
    model, _ = trained
    weights = model.get_weights()
    for method in (model.encode, model.log_prob, model.evaluate, model.fit):
        with pytest.raises(ValueError, match=f"is expected to be.*{said}") as e:
            method(images)
        assert "\n" not in str(e.value)
    for before, after in zip(weights, model.get_weights(), strict=True):
        assert_array_equal(before, after)


def test_holes_in_floats_are_not_filled(trained):
    with pytest.raises(ValueError, match=r"`model.bits`.*1\.\.8.*None"):
        inpaint(trained[0], floats(1), np.ones((8, 8), bool))


def test_bits_per_dim_of_floats_is_refused(trained):
    with pytest.raises(ValueError, match="`bits`.*for bits_per_dim.*None"):
        trained[0].bits_per_dim(floats(2))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_are_taken(trained, dtype):
    model, _ = trained
    images = (floats(2) / 1e3).astype(dtype)
    expected = model.encode(images.astype("float32"))
    assert_allclose(model.encode(images), expected, atol=1e-3)


def test_exported_functions_take_floats(trained):
    model, _ = trained
    images = floats(2)
    encoder, decoder = standalone(model)
    encoded = encoder({"images": images})
    assert_allclose(encoded["z"], model.encode(images), atol=1e-4)
    assert_allclose(encoded["log_prob"], model.log_prob(images), rtol=1e-5)
    back = decoder(
        {"z": encoded["z"], "temperature": ops.convert_to_tensor(1.0)}
    )["images"]
    assert np.max(np.abs(to_numpy(back) - images) / DEVIATIONS) < 1e-4
