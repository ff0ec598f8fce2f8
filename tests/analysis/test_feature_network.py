"""The network behind the distances of faces, as it is shipped."""

import hashlib

import keras
import numpy as np
import pytest
from helpers import data_file, load_experiment, random_images
from numpy.testing import assert_allclose, assert_array_equal

FACES = data_file("faces32_valid.npz")


@pytest.fixture(scope="module")
def experiment():
    return load_experiment("feature_network")


def test_the_shipped_network_is_small_and_plain(experiment):
    assert experiment.WEIGHTS.stat().st_size < 1e6
    digest = hashlib.sha256(experiment.WEIGHTS.read_bytes()).hexdigest()
    assert digest in experiment.WEIGHTS.with_suffix(".md").read_text()
    model = keras.saving.load_model(experiment.WEIGHTS, safe_mode=True)
    assert not model.compiled
    assert model.output_shape == (None, 40)


def test_features_of_an_image_are_the_same_in_any_batch(experiment):
    features = experiment.load_features()
    images = random_images(300, (32, 32, 3))
    values = features(images)
    assert values.shape == (300, experiment.FEATURES)
    assert np.isfinite(values).all() and values.std(axis=0).min() > 0
    assert_allclose(features(images[7:9]), values[7:9], atol=1e-4)
    assert_allclose(features(images.astype("float32")), values, atol=1e-4)
    with pytest.raises(ValueError, match=r"\(count, 32, 32, 3\).*\(300, 32"):
        features(images[..., :1])


@pytest.mark.slow
def test_training_and_loading(experiment, tmp_path):
    images = random_images(96, (8, 8, 3))
    bright = images.mean(axis=(1, 2)) > 128
    model = experiment.train(images, bright, 1, 1e-3, seed=0)
    model.save(tmp_path / "features.keras")
    values = experiment.load_features(tmp_path / "features.keras")(images)
    expected = keras.Model(model.input, model.get_layer("features").output)
    assert_allclose(values, expected.predict(images, verbose=0), atol=1e-5)


def test_roc_area(experiment):
    labels = np.array([0, 1, 0, 1, 1])
    scores = np.array([0.1, 0.9, 0.5, 0.5, 0.4])
    # Of six pairs four are in order, one is a tie, one is not.
    assert_allclose(experiment.roc_area(labels, scores), 4.5 / 6)
    assert np.isnan(experiment.roc_area(np.ones(5), scores))


def test_damage_is_done_to_some_pixels(experiment):
    images = random_images(10, (8, 8, 3))
    done = dict(experiment.damaged(images, np.random.default_rng(0)))
    assert_array_equal(done.pop("nothing"), images)
    assert len(done) == 9
    for changed in done.values():
        assert changed.shape == images.shape and changed.dtype == "uint8"
        assert np.any(changed != images)
    # Blocks of 2 x 2 keep their mean where all their pixels were equal.
    flat = np.full((2, 8, 8, 3), 77, "uint8")
    blurred = dict(experiment.damaged(flat, np.random.default_rng(0)))
    assert_array_equal(blurred["shrunk by 2 and enlarged"], flat)


@pytest.mark.skipif(
    not FACES, reason="needs faces32_valid.npz: set KERAS_GLOW_DATA"
)
def test_the_shipped_network_knows_faces_of_other_people(experiment):
    with np.load(FACES) as file:
        images, labels = file["images"], file["attributes"]
        names = list(file["attribute_names"])
    model = keras.saving.load_model(experiment.WEIGHTS)
    logits = model.predict(images, batch_size=256, verbose=0)
    for name, least in (
        ("Male", 0.97),
        ("Smiling", 0.95),
        ("Eyeglasses", 0.95),
    ):
        i = names.index(name)
        assert experiment.roc_area(labels[:, i], logits[:, i]) > least
