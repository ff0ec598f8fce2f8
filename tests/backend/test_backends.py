"""Files go from backend to backend: each checks itself by the same numbers.

`experiments/backends.py --golden tests/golden` made the files and the numbers.
"""

import json
import logging
import sys

import keras
import numpy as np
import pytest
from helpers import ROOT, load_experiment
from numpy.testing import assert_allclose

from keras_glow import backend
from keras_glow.data import count_batches

pytestmark = pytest.mark.every_backend
GOLDEN = ROOT / "tests" / "golden"


EXPERIMENT = load_experiment("backends")
IMAGES, SCORED = EXPERIMENT.load_images(None)


# One that another backend wrote; the rest takes longer.
FIRST = "tensorflow" if keras.backend.backend() == "torch" else "torch"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(b, marks=() if b == FIRST else pytest.mark.slow)
        for b in EXPERIMENT.BACKENDS
    ],
)
def file(request):
    """A file that a backend wrote."""
    return GOLDEN / f"trained_on_{request.param}.keras"


@pytest.fixture(scope="module")
def golden(file):
    """What is to come of it."""
    return json.loads(file.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def found(file):
    """What this backend makes of it."""
    return EXPERIMENT.measure(file, SCORED)


def test_likelihoods_are_those_of_the_backend_that_trained(found, golden):
    assert len(found["log_prob"]) == 100
    assert_allclose(found["log_prob"], golden["log_prob"], rtol=0, atol=1e-3)


def test_likelihoods_in_float64_are_equal(found, golden):
    assert found["log_prob_64"].dtype == "float64"
    assert_allclose(found["log_prob_64"], golden["log_prob"], rtol=1e-9)


def test_images_of_the_other_backend_come_back(found):
    assert found["exact"]


def test_samples_are_within_one_grey_level(found, golden):
    expected = np.array(golden["samples"])
    assert expected.std() > 10  # pictures, not grey
    apart = np.abs(found["samples"][: len(expected)].astype(int) - expected)
    assert apart.max() <= 1


def test_training_goes_on_where_the_other_backend_stopped(file, golden):
    found = EXPERIMENT.train_on(file, IMAGES)
    before, after = found["losses"]
    assert_allclose(before, golden["loss"], rtol=1e-6)
    assert after < before
    assert found["steps"][0] == golden["steps"] > 0
    batches = count_batches(
        len(IMAGES), 32, drop_remainder=keras.backend.backend() == "jax"
    )
    assert found["steps"][1] == golden["steps"] + batches


@pytest.mark.slow
def test_faces_are_scored_alike_by_every_backend_that_is_here(tmp_path):
    """Beside the files above: models trained and compared now."""
    here = [b for b in EXPERIMENT.BACKENDS if EXPERIMENT.importable(b)]
    missing = sorted(set(EXPERIMENT.BACKENDS) - set(here))
    if len(here) < 2:
        pytest.skip(f"{', '.join(missing)} cannot be imported")
    rows = EXPERIMENT.compare(dict.fromkeys(here, sys.executable), tmp_path, "")
    for row in rows.values():
        assert row["log_prob"] <= 1e-3
        assert row["exact"]
        assert row["grey"] <= 1
        assert row["losses"][1] < row["losses"][0]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow warns of it"
)
def test_only_expected_retracing_is_silent(caplog):
    logger = logging.getLogger("tensorflow")
    with caplog.at_level(logging.WARNING, logger="tensorflow"):
        logger.addHandler(caplog.handler)
        with backend.expected_retracing():
            logger.warning("triggered tf.function retracing")
            logger.warning("something else")
        logger.warning("retracing of the user's own function")
        logger.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    assert "triggered tf.function retracing" not in messages
    assert "something else" in messages
    assert "retracing of the user's own function" in messages
