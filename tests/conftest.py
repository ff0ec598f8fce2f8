"""What every test shares."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As `keras-glow train` sets it, which the processes that tests start inherit:
# all of them compute alike.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Marks the tests that record a figure: `make reliability` runs them."""
    for item in items:
        if "record_property" in item.fixturenames:
            item.add_marker("figure")


def pytest_collection_finish():
    """Spares the collector what the imports made, which lives to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeds():
    """The same numbers in every run, and names that start from 1."""
    np.random.seed(0)
    keras.utils.set_random_seed(0)
    # Without a garbage collection, which would take half of the time of a test.
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def float64():
    """Lets JAX compute in float64 for the length of a test."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def policy():
    """Sets a global dtype policy, and takes it back afterwards."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)
