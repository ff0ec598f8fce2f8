"""Two devices do what one does, on the engines of this backend."""

import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from helpers import load_experiment, random_images
from numpy.testing import assert_allclose

import keras_glow
from keras_glow.backend import devices as replicas
from keras_glow.cli.main import main
from keras_glow.losses import negative_mean
from keras_glow.training import flow_loss

pytestmark = pytest.mark.every_backend
BACKEND = keras.backend.backend()


EXPERIMENT = load_experiment("devices")
FAST = ("MirroredStrategy", "DataParallel", "DistributedDataParallel")
# It fails inside Keras 3.15 for any model, see docs/devices.md.
FAILS = "MultiWorkerMirroredStrategy"
ENGINES = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name, (backend, *_) in EXPERIMENT.ENGINES.items()
    if backend == BACKEND and name != FAILS
]


@pytest.fixture
def one_device(monkeypatch):
    """What one device measures, in this process."""
    monkeypatch.setattr(  # put back afterwards
        flow_loss, "dequantize", flow_loss.dequantize
    )
    return EXPERIMENT.Worker(0, 1, 0).measure()


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("engine", ENGINES)
def test_two_devices_do_what_one_does(engine, one_device, tmp_path):
    workers = EXPERIMENT.run(
        engine, *EXPERIMENT.ENGINES[engine], sys.executable, tmp_path
    )
    assert not isinstance(workers, str), workers
    row = EXPERIMENT.compare(workers, one_device)
    assert row["replicas"] == 2
    assert row["ActNorm apart"] == 0
    assert row["gradient error"] <= 1e-5
    assert row["loss error"] <= 1e-5
    assert row["loss"][1] < row["loss"][0]
    # A batch that is not finite on one of them is left out on both.
    assert set(row["steps left out"]) == {1}
    assert row["weights kept"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_replicas_on_gpus_do_without_xla(monkeypatch):
    import tensorflow as tf

    gpu = types.SimpleNamespace(device_type="GPU", name="GPU:0")
    with (
        monkeypatch.context() as patch,
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
    ):
        for name in ("list_physical_devices", "get_visible_devices"):
            patch.setattr(tf.config, name, lambda kind=None: [gpu])
        model = keras_glow.Glow((4, 4, 1), levels=1, depth=1, width=2)
        model.compile()
        models = model, model.encoder, model.scorer, model.decoder
        assert not any(m.jit_compile for m in models)


def test_replicas_have_other_noise(monkeypatch):
    noise = np.random.default_rng(0).random((4, 8, 8, 3), "float32")
    tensor = keras.ops.convert_to_tensor(noise)
    same = keras.ops.convert_to_numpy(replicas.shift_noise_by_replica(tensor))
    assert np.array_equal(same, noise)
    monkeypatch.setattr(replicas, "replica_of_strategy", lambda: (1, 2))
    other = keras.ops.convert_to_numpy(replicas.shift_noise_by_replica(tensor))
    assert 0 <= other.min() and other.max() < 1
    apart = np.abs(other - noise)
    assert_allclose(apart, 0.5, atol=1e-6)
    assert abs(other.mean() - 0.5) < 0.05


def test_a_replica_without_images_adds_nothing_to_the_loss():
    assert float(negative_mean(keras.ops.zeros((0,)))) == 0


def test_devices_that_are_not_there_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "images.npz", images=random_images(8, (8, 8, 3)))
    arguments = ["train", str(tmp_path / "images.npz"), "--devices=64"]
    assert main([*arguments, f"--out={tmp_path / 'run'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--devices is expected to be" in line
    assert "Received: devices=64" in line
    if BACKEND == "torch":
        assert "docs/devices.md" in line


TRAIN = """
import json, sys
devices, *arguments = sys.argv[1:]
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices)
    )
from keras_glow.cli.main import main
assert main([*arguments, f"--devices={devices}"]) == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "torch", reason="a process for each device")
def test_the_command_line_trains_on_two_devices(tmp_path):
    # Numbers of images that two devices cannot share.
    data = tmp_path / "images.npz"
    images = random_images(69, (8, 8, 3))
    np.savez(data, images=images, x_test=images[:13])
    losses = []
    for devices in (1, 2):
        run = tmp_path / str(devices)
        subprocess.run(
            [
                *(sys.executable, "-c", TRAIN, str(devices), "train"),
                *(str(data), f"--validation={data}", f"--out={run}"),
                *("--levels=2", "--depth=1", "--width=8", "--epochs=3"),
                "--ema=0.5",
            ],
            check=True,
            env={
                **os.environ,
                "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
                "PYTHONPATH": os.pathsep.join(sys.path[1:]),
            },
        )
        history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
        losses.append(history["val_bits_per_dim"])
        model = keras_glow.load_model(run / "model.keras")
        assert np.isfinite(model.log_prob(images[:3])).all()
        assert len(list((run / "samples").iterdir())) == 3
    assert_allclose(losses[0], losses[1], atol=0.02)
    assert losses[1][-1] < losses[1][0]
