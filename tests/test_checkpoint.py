"""Checkpoints and runs: stopped anyhow, nothing is lost and nothing differs."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy
from numpy.testing import assert_array_equal

from keras_glow import training
from keras_glow.callbacks import Checkpoint
from keras_glow.checkpoint import (
    load_checkpoint,
    previous_path,
    read_progress,
    save_checkpoint,
)

SETTINGS = {
    "levels": 1,
    "depth": 1,
    "width": 4,
    "permutation": "invertible_conv",
    "coupling": "affine",
    "bits": 8,
    "seed": 0,
    "network_dtype": None,
    "learning_rate": 1e-2,
    "warmup": 3,
    "clip": 1e5,
    "ema": 0.9,
    "epochs": 2,
    "batch_size": 16,
    "flip": True,
}
STEPS = 4  # in an epoch


@pytest.fixture(scope="module")
def images():
    return random_images(60, (4, 4, 1))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    training.train(folder, images, images[:20], SETTINGS)
    return folder


@pytest.fixture
def model():
    return training.new_model(SETTINGS, (4, 4, 1), 2 * STEPS)


class StopAfter(keras.callbacks.Callback):
    """Sends this process a signal after so many batches."""

    def __init__(self, batches, number=signal.SIGTERM):
        super().__init__()
        self.left = batches
        self.number = number

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.reader(file))


def assert_same_run(folder, other):
    """History, weights, averages and optimiser, to the last bit."""
    assert history(folder) == history(other)
    for name in (training.CHECKPOINT, "model.keras"):
        one, two = (keras.saving.load_model(f / name) for f in (folder, other))
        for a, b in zip(
            one.weights + one.optimizer.variables,
            two.weights + two.optimizer.variables,
            strict=True,
        ):
            assert_array_equal(to_numpy(a), to_numpy(b), err_msg=a.path)
    assert_array_equal(one.sample(4, seed=0), two.sample(4, seed=0))


@pytest.mark.parametrize(
    "batches", [3, STEPS, STEPS + 2], ids="after {}".format
)
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_end(
    images, finished, tmp_path, batches
):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="checkpoint.keras holds"):
        training.train(
            tmp_path, images, images[:20], SETTINGS, [StopAfter(batches)]
        )
    assert signal.getsignal(signal.SIGTERM) is handler
    progress = read_progress(tmp_path / training.CHECKPOINT)
    done = progress.epoch * STEPS + progress.batch
    assert done == batches
    training.train(tmp_path, images, images[:20], SETTINGS)
    assert_same_run(tmp_path, finished)


def test_a_run_that_is_finished_stays_as_it_is(images, finished):
    before = history(finished)
    training.train(finished, images, images[:20], SETTINGS)
    assert history(finished) == before


def test_only_one_process_trains_in_a_folder(images, tmp_path):
    with training.locked(tmp_path):
        with pytest.raises(ValueError, match="another process"):
            training.train(tmp_path, images, None, SETTINGS)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(model, tmp_path):
    path = tmp_path / "run.keras"
    save_checkpoint(model, path, epoch=1)
    model.bijections[1].actnorm.bias.assign([1.0, 2.0, 3.0, 4.0])
    save_checkpoint(model, path, epoch=2, batch=3, settings={"a": 1})
    loaded, progress = load_checkpoint(path)
    assert (progress.epoch, progress.batch, progress.settings) == (
        *(2, 3),
        {"a": 1},
    )
    assert_array_equal(
        to_numpy(loaded.bijections[1].actnorm.bias), [1, 2, 3, 4]
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (tmp_path / ".run.partial.keras").write_bytes(b"half")
    with pytest.warns(UserWarning, match="run.keras cannot be read"):
        loaded, progress = load_checkpoint(path)
    assert progress.epoch == 1
    assert_array_equal(to_numpy(loaded.bijections[1].actnorm.bias), 0)
    # A kill between the two renames leaves the one before alone.
    path.unlink()
    assert load_checkpoint(path)[1].epoch == 1
    previous_path(path).write_bytes(b"no model")
    with pytest.raises(ValueError, match="run.previous.keras cannot be read"):
        load_checkpoint(path)
    previous_path(path).unlink()
    assert load_checkpoint(path) is None
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_saved(model, tmp_path):
    save_checkpoint(model, tmp_path / "run.keras", epoch=1)
    before = (tmp_path / "run.keras").read_bytes()
    model.bijections[1].actnorm.bias.assign([0.0, np.nan, 0.0, 0.0])
    with pytest.raises(FloatingPointError, match="actnorm/bias is not finite"):
        save_checkpoint(model, tmp_path / "run.keras", epoch=2)
    assert (tmp_path / "run.keras").read_bytes() == before
    assert not previous_path(tmp_path / "run.keras").exists()


def test_a_full_disk_ends_training_at_the_third_time(
    model, images, tmp_path, monkeypatch
):
    path = tmp_path / "run.keras"
    saves = []

    def fail(*args):
        saves.append(args)
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_glow.callbacks.save_checkpoint", fail)
    with pytest.warns(UserWarning, match="run.keras cannot be written"):
        with pytest.raises(OSError, match="No space"):
            model.fit(images, epochs=9, verbose=0, callbacks=[Checkpoint(path)])
    assert len(saves) == 3


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on(images, finished, tmp_path):
    """SIGKILL at 50 moments, most of them while it trains or saves."""
    np.savez(tmp_path / "train.npz", images=images)
    np.savez(tmp_path / "valid.npz", images=images[:20])
    out = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "keras_glow", "train", tmp_path / "train.npz"),
        *("--validation", tmp_path / "valid.npz", "--out", out, "--resume"),
        *("--levels=1", "--depth=1", "--width=4", "--flip", "--epochs=400"),
        *("--batch-size=16", "--ema=0.9"),
    ]
    rng = random.Random(0)
    epoch = 0
    for _ in range(50):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        history_file = out / "history.csv"
        rows = len(history(out)) if history_file.exists() else 0
        start = time.monotonic()
        while time.monotonic() - start < 120:
            # Once it trains, anywhere within the next epochs.
            if history_file.exists() and len(history(out)) > rows:
                break
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        model, progress = load_checkpoint(out / training.CHECKPOINT)
        assert not list(out.glob(".*partial*"))
        steps = int(to_numpy(model.optimizer.iterations))
        assert steps == progress.epoch * STEPS
        assert progress.epoch > epoch
        assert len(history(out)) - 1 - progress.epoch in (0, 1)
        epoch = progress.epoch
