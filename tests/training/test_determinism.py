"""The same seed gives the same bytes, and nothing global is touched."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import Glow

SHAPE = (8, 8, 3)
IMAGES = random_images(20, SHAPE)


def train(*epochs):
    """A model after a fit up to each of these epochs, its start, its losses."""
    model = Glow(SHAPE, levels=2, depth=1, width=8, seed=3)
    start = [to_numpy(weight) for weight in model.weights]
    model.compile(keras.optimizers.Adam(1e-2))
    losses = []
    for last in epochs:
        history = model.fit(
            *(IMAGES, None, 8, last),
            initial_epoch=last - epochs[0],
            validation_data=IMAGES[:5],
            verbose=0,
        ).history
        losses += zip(*history.values(), strict=True)
    return model, start, losses


@pytest.fixture(scope="module")
def trained():
    return train(2)


def test_the_same_seed_gives_the_same_bytes(trained, record_property):
    # Whatever the global generators stand at, and in two fits as in one.
    np.random.seed(99)
    keras.utils.set_random_seed(99)
    model, start, losses = train(1, 2)
    other, other_start, other_losses = trained
    bytes_of = {
        "initial weights": (start, other_start),
        "losses": (np.array(losses), np.array(other_losses)),
        "trained weights": (model.get_weights(), other.get_weights()),
        "optimiser": (model.optimizer.variables, other.optimizer.variables),
        "samples": ([model.sample(5, seed=1)], [other.sample(5, seed=1)]),
        "latents": ([model.encode(IMAGES)], [other.encode(IMAGES)]),
        "likelihoods": (
            [model.log_prob(IMAGES, draws=2, seed=1)],
            [other.log_prob(IMAGES, draws=2, seed=1)],
        ),
    }
    equal = [
        name
        for name, (one, two) in bytes_of.items()
        if len(one) == len(two)
        and all(
            to_numpy(a).tobytes() == to_numpy(b).tobytes()
            for a, b in zip(one, two, strict=True)
        )
    ]
    record_property(
        "kinds of results equal to the last bit in two runs of a seed",
        f"{len(equal)} of {len(bytes_of)}",
    )
    assert equal == list(bytes_of)


def test_another_seed_gives_another_model(trained):
    model = Glow(SHAPE, levels=2, depth=1, width=8, seed=4)
    pairs = zip(model.weights, trained[1], strict=True)
    assert any(np.any(to_numpy(one) != two) for one, two in pairs)


def test_evaluation_does_not_depend_on_the_batch_size(trained, record_property):
    model, *_ = trained
    values = [
        model.evaluate(IMAGES, batch_size=size, verbose=0)
        for size in (32, 7, 1)
    ]
    error = np.max(np.abs(np.array(values) / values[0] - 1))
    record_property(
        "relative difference of `evaluate` by batches of 32, 7 and 1",
        f"{error:.1e}",
    )
    assert error <= 1e-6
    dataset = [(IMAGES[:8],), (IMAGES[8:],)]
    assert_allclose(
        model.evaluate(iter(dataset), verbose=0), values[0], rtol=1e-6
    )


def test_noise_of_a_test_is_uniform_and_another_for_every_image(trained):
    noise = trained[0].test_noise(np.arange(65536), "float32")
    noise = to_numpy(noise).reshape(65536, -1)
    for subpixel in noise.T[:5]:
        values = np.sort(subpixel)
        assert_array_equal(values, np.arange(65536) / 65536)
    correlation = np.corrcoef(noise[:2000, :20].T) - np.eye(20)
    assert np.abs(correlation).max() < 0.2
    again = trained[0].test_noise(np.arange(65536, 65540), "float32")
    assert_array_equal(to_numpy(again).reshape(4, -1), noise[:4])


PROBE = """
import hashlib, json, logging, os, random, signal, sys, warnings

import keras
import numpy as np

backend = keras.backend.backend()
keras.utils.set_random_seed(0)


def keeps_freed_memory():
    # Whether a large block that is freed stays with the process.
    if sys.platform != "linux":
        return False
    import ctypes
    import resource

    libc, size = ctypes.CDLL(None), 48 * 2**20
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults < size / resource.getpagesize() / 2


# What a backend sets up when it is first used is not for us to answer.
keras.ops.convert_to_numpy(keras.ops.ones(1) + 1)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
model.evaluate(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
model.predict(np.ones((4, 2)), verbose=0)


def state():
    config = keras.config
    seen = {
        "random": random.getstate(),
        "numpy.random": np.random.get_state(),
        "keras": [
            config.floatx(),
            config.epsilon(),
            config.image_data_format(),
            config.dtype_policy().name,
            config.backend(),
            config.is_traceback_filtering_enabled(),
            config.is_interactive_logging_enabled(),
        ],
        "logging": [
            logging.root.level,
            len(logging.root.handlers),
            logging.root.manager.disable,
        ],
        "warnings": [str(f) for f in warnings.filters],
        "signals": [str(signal.getsignal(s)) for s in signal.valid_signals()],
        "environment": dict(os.environ),
        "hooks": [str(sys.excepthook), str(sys.displayhook)],
        "path": list(sys.path),
        "folder": os.getcwd(),
        "recursion limit": sys.getrecursionlimit(),
        "malloc": keeps_freed_memory(),
        "numpy": [np.geterr(), np.get_printoptions()["precision"]],
    }
    if backend == "tensorflow":
        import tensorflow as tf
        from tensorflow.python.eager import context
        from tensorflow.python.framework import config as config_of_ops

        seen["tensorflow"] = [
            context.global_seed(),
            context.context()._rng.getstate(),
            tf.config.functions_run_eagerly(),
            tf.config.threading.get_inter_op_parallelism_threads(),
            config_of_ops.is_op_determinism_enabled(),
            tf.config.experimental.tensor_float_32_execution_enabled(),
        ]
    elif backend == "jax":
        import jax

        seen["jax"] = sorted(map(str, jax.config.values.items()))
    else:
        import torch

        # Not its generator: the DataLoader that Keras reads arrays through
        # draws a number of it for every pass.
        seen["torch"] = [
            torch.is_grad_enabled(),
            str(torch.get_default_dtype()),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
        ]
    return {k: hashlib.sha256(repr(v).encode()).hexdigest()
            for k, v in seen.items()}


report = {}
before, modules = state(), set(sys.modules)
import keras_glow

report["import"] = [k for k, v in state().items() if v != before[k]]
loaded = set(sys.modules) - modules
report["modules"] = sorted(
    name for name in loaded
    if name.split(".")[0] in ("matplotlib", "scipy", "sklearn")
)
images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3))
steps = {
    "build": lambda: globals().update(
        model=keras_glow.Glow((8, 8, 3), levels=2, depth=1, width=8)
    ),
    "compile": lambda: model.compile(),
    "fit": lambda: model.fit(
        images, batch_size=8, validation_data=images, verbose=0
    ),
    "evaluate": lambda: model.evaluate(images, verbose=0),
    "sample": lambda: (model.sample(2, seed=0), model.sample(2)),
    "log_prob": lambda: (model.log_prob(images), model.encode(images)),
    "save": lambda: model.save("model.keras"),
    "load": lambda: keras_glow.load_model("model.keras"),
}
for name, step in steps.items():
    before = state()
    step()
    report[name] = [k for k, v in state().items() if v != before[k]]
print(json.dumps(report))
"""


@pytest.mark.slow
def test_no_global_state_is_touched(tmp_path, record_property):
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        # Without what this process has set, or nothing would show.
        env={
            **{name: os.environ[name] for name in ("PATH", "HOME")},
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": os.pathsep.join(sys.path[1:]),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (printed,) = done.stdout.splitlines()  # nothing beside the report
    report = json.loads(printed)
    assert report.pop("modules") == []
    touched = {step: names for step, names in report.items() if names}
    record_property(
        "steps, from import to loading, that change global state",
        f"{len(touched)} of {len(report)}: {touched or 'none'}",
    )
    # glibc's settings cannot be taken back: see `keras_glow.backend.process`.
    tuned = keras.backend.backend() == "tensorflow" and sys.platform == "linux"
    assert touched == ({"fit": ["malloc"]} if tuned else {})
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
