"""What every test shares."""

import gc
import os
import pathlib
import random

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As `keras-glow train` sets it, which the processes that tests start inherit:
# all of them compute alike.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Compiling takes most of the time of what XLA runs here.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# JAX compiles what many tests have alike but once, in any process.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parents[1] / "build" / "jax"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state


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
    """The same numbers in every run, and names that start from 1.

    On TensorFlow `set_random_seed` and `clear_session` both throw away what is
    compiled, and a test of a model that others have used would take most of a
    second to make it anew. So what they do to Keras is done without them.
    """
    random.seed(0)
    np.random.seed(0)
    if keras.backend.backend() != "tensorflow":
        keras.utils.set_random_seed(0)
    for name, value in {
        "global_random_seed": 0,
        "global_seed_generator": None,
        "object_name_uids": None,
        "dtype_policy": None,
    }.items():
        global_state.set_global_attribute(name, value)


@pytest.fixture(scope="module")
def untraced_module():
    """Runs TensorFlow eagerly, for tests that make many models for few steps.

    Tracing each of them would take most of their time.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


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
