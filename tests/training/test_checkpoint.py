"""Checkpoints and runs: stopped anyhow, nothing is lost and nothing differs."""

import contextlib
import csv
import dataclasses
import functools
import io
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import sys
import time
import types
import warnings

import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy, untraced
from numpy.testing import assert_array_equal

from keras_glow import callbacks
from keras_glow.callbacks import Checkpoint, HistoryFile, SampleGrid
from keras_glow.cli import follow
from keras_glow.cli import run as training
from keras_glow.cli.main import main
from keras_glow.data import ImageSequence
from keras_glow.training.checkpoint import (
    load_checkpoint,
    previous_path,
    read_progress,
    save_checkpoint,
)
from keras_glow.training.divergence import StopIfDiverged

SETTINGS = training.Settings(
    levels=1,
    depth=1,
    width=4,
    network="residual",
    dropout=0.2,
    learning_rate=1e-2,
    warmup=3,
    ema=0.9,
    epochs=2,
    batch_size=16,
    flip=True,
)
# In an epoch: a compiled step takes no smaller batch.
STEPS = 3 if keras.backend.backend() == "jax" else 4
SLOW = pytest.mark.slow
pytestmark = [pytest.mark.every_backend, pytest.mark.slow_on_jax]


@pytest.fixture(scope="module")
def images():
    return random_images(60, (4, 4, 1))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    training.train(folder, images, images[:20], SETTINGS)
    return folder


@pytest.fixture(scope="module")
def compiled():
    """One model for all tests, and the values that it starts with."""
    model = training.new_model(SETTINGS, (4, 4, 1), 60)
    model.optimizer.build(model.trainable_variables)
    return model, [value for _, value in state(model)]


@pytest.fixture
def model(compiled):
    model, start = compiled
    variables = model.variables + model.optimizer.variables
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    return model


class StopAfter(keras.callbacks.Callback):
    """Sends this process a signal after so many batches."""

    def __init__(self, batches, number=signal.SIGTERM):
        super().__init__()
        self.left = batches
        self.number = number

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.reader(file))


def state(model):
    """Weights, state of the noise, averages and optimiser."""
    return [
        (variable.path, to_numpy(variable).copy())
        for variable in model.variables + model.optimizer.variables
    ]


def assert_same_model(one, two):
    """To the last bit."""
    for (path, a), (_, b) in zip(state(one), state(two), strict=True):
        assert_array_equal(a, b, err_msg=path)
    samples = (untraced(model).sample(4, seed=0) for model in (one, two))
    assert_array_equal(*samples)


def assert_same_run(folder, other):
    assert history(folder) == history(other)
    for name in (training.CHECKPOINT, "model.keras"):
        assert_same_model(
            *(keras.saving.load_model(f / name) for f in (folder, other))
        )


@pytest.mark.parametrize(
    "batches",
    [
        3,
        pytest.param(STEPS, marks=pytest.mark.slow),
        pytest.param(STEPS + 2, marks=pytest.mark.slow),
    ],
    ids="after {}".format,
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
    # What killed saves of its own left goes; another run may be in its folder.
    left = [finished / ".a.partial", finished / "samples" / ".b.partial"]
    other = finished / "other" / ".model.keras.partial"
    for folder in (*left, other):
        folder.mkdir(parents=True)
    training.train(finished, images, images[:20], SETTINGS)
    assert history(finished) == before
    assert other.exists() and not any(folder.exists() for folder in left)
    other.rmdir()


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
    (tmp_path / ".run.keras.partial").mkdir()
    (tmp_path / ".run.keras.partial" / "run.keras").write_bytes(b"half")
    with pytest.warns(UserWarning, match="run.keras cannot be read"):
        loaded, progress = load_checkpoint(path)
    assert progress.epoch == 1
    assert_array_equal(to_numpy(loaded.bijections[1].actnorm.bias), 0)
    # The damaged one is out of the way of the next save, and not lost.
    damaged = tmp_path / "run.damaged.keras"
    assert damaged.read_bytes() == content
    damaged.unlink()
    # A kill between the two renames leaves the one before alone.
    assert not path.exists()
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


def contents(folder):
    """Every file of a folder: path and bytes."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def before_every_file_operation(action):
    """Calls `action` before each call by which Python changes a file."""
    names = "open write truncate flush close mkdir rmdir unlink replace fsync"
    files = io.FileIO, io.BufferedWriter, io.BufferedRandom

    def look(frame, event, function):
        if event != "c_call" or function.__name__ not in names.split():
            return
        if (
            function.__module__ == "posix"
            or function is open
            or isinstance(function.__self__, files)
        ):
            action(function.__name__)

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX functions")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=SLOW)])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param("first save", marks=SLOW),
        pytest.param("second save", marks=SLOW),
        "third save",
        "save after a fallback",
    ],
)
def test_a_save_killed_at_any_file_operation_loses_nothing(
    model, tmp_path, case, every, record_property
):
    """What is on the disk before each operation is what a kill would leave.

    Without `every`, of all states that differ in nothing but the unfinished
    file, one is loaded.
    """
    folder, path = tmp_path / "run", tmp_path / "run" / "run.keras"
    folder.mkdir()
    saved = {"first save": 0, "second save": 1}.get(case, 2)
    for epoch in range(1, saved + 1):
        save_checkpoint(model, path, epoch)
    if case == "save after a fallback":
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.warns(UserWarning, match="run.keras cannot be read"):
            saved = load_checkpoint(path)[1].epoch
    operations, states = [], {}

    def look(operation):
        kept = contents(folder)
        names = [n for n in kept if every or "partial" not in str(n)]
        key = str([(name, kept[name]) for name in names])
        done = operations.count("replace")
        states[key] = kept, done
        operations.append(operation)

    with before_every_file_operation(look):
        save_checkpoint(model, path, saved + 1)
    # A power cut would lose what is renamed before it is on the disk.
    assert operations.index("fsync") < operations.index("replace")
    assert len(operations) > 50
    for kept, done in states.values():
        shutil.rmtree(folder)
        folder.mkdir()
        for name, content in kept.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        renamed = done == operations.count("replace")
        loaded = load_checkpoint(path)
        epoch = 0 if loaded is None else loaded[1].epoch
        assert epoch == (saved + 1 if renamed else saved)
        assert not list(folder.glob("*partial*"))
        assert not list(folder.glob(".*partial*"))
    record_property(
        f"kill points in the {case} that leave a checkpoint to go on from",
        f"{len(operations)} of {len(operations)}",
    )


@contextlib.contextmanager
def largest_file(size):
    """No file of this process may grow over so many bytes: a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class EverySecondEpochIsFull(keras.callbacks.Callback):
    """Runs other callbacks on a disk that is full in every second epoch."""

    def __init__(self, callbacks, sizes, folder):
        super().__init__()
        self.callbacks = callbacks
        self.sizes = iter(sizes)
        self.folder = folder
        self.messages = []

    def set_model(self, model):
        for callback in self.callbacks:
            callback.set_model(model)

    def set_params(self, params):
        for callback in self.callbacks:
            callback.set_params(params)

    def on_train_begin(self, logs=None):
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        full = epoch % 2 == 1
        before = contents(self.folder)
        limit = contextlib.nullcontext()
        if full:
            limit = largest_file(next(self.sizes))
        with warnings.catch_warnings(record=True) as caught, limit:
            warnings.simplefilter("always")
            for callback in self.callbacks:
                callback.on_epoch_end(epoch, logs)
        messages = [str(warning.message) for warning in caught]
        self.messages.append([m for m in messages if "goes on" in m])
        if full:
            after = contents(self.folder)
            assert {path: after[path] for path in before} == before
            assert not any("partial" in str(path) for path in after)

    def on_train_end(self, logs=None):
        for callback in self.callbacks:
            callback.on_train_end(logs)


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=SLOW)])
def test_a_full_disk_loses_nothing_and_training_goes_on(
    model, images, tmp_path, count, record_property
):
    path = tmp_path / "run.keras"
    save_checkpoint(model, path, epoch=0)
    whole = path.stat().st_size
    sizes = [whole * i // count for i in range(count)]
    checkpoint = Checkpoint(path, seconds=0)
    full = EverySecondEpochIsFull([checkpoint], sizes, tmp_path)
    model.fit(images[:16], epochs=2 * count + 1, verbose=0, callbacks=[full])
    assert not any(full.messages[::2])
    for (message,) in full.messages[1::2]:
        assert f"{path} cannot be written: File too large" in message
    loaded, progress = load_checkpoint(path)
    assert progress.epoch == 2 * count + 1
    record_property(
        "full disks, at as many points of a save, that lose no checkpoint",
        f"{len(full.messages[1::2])} of {count}",
    )


def test_history_and_samples_survive_a_full_disk(model, images, tmp_path):
    files = [
        HistoryFile(tmp_path / "history.csv", append=True),
        SampleGrid(tmp_path / "samples"),
    ]
    full = EverySecondEpochIsFull(files, [0, 0], tmp_path)
    model.fit(images[:16], epochs=5, verbose=0, callbacks=[full])
    for history_message, grid_message in full.messages[1::2]:
        assert f"{tmp_path / 'history.csv'}: [Errno" in history_message
        assert "epoch_000" in grid_message and "too large" in grid_message
    # The rows were kept back; a picture is not worth it.
    assert [row[0] for row in history(tmp_path)[1:]] == list("01234")
    assert len(list((tmp_path / "samples").iterdir())) == 3


def test_a_disk_full_for_three_epochs_ends_training(model, images, tmp_path):
    path = tmp_path / "run.keras"
    save_checkpoint(model, path, epoch=0)
    before = contents(tmp_path)
    checkpoint = Checkpoint(path, seconds=0)
    checkpoint.set_model(model)
    with largest_file(1000):
        for epoch in range(2):
            with pytest.warns(UserWarning, match="run.keras cannot be written"):
                checkpoint.on_epoch_end(epoch)
        with pytest.raises(OSError, match="run.keras cannot be written"):
            checkpoint.on_epoch_end(2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "seconds, last, saved",
    [(0, 5, [1, 2, 3, 4, 5]), (60, 5, [1, 4, 5]), (60, 2, [1, 2])],
    ids=["every epoch", "every minute", "ended early"],
)
def test_a_checkpoint_is_saved_once_a_minute_and_at_the_end(
    model, tmp_path, monkeypatch, seconds, last, saved
):
    epochs = []
    monkeypatch.setattr(
        callbacks, "save_checkpoint", lambda *args: epochs.append(args[2])
    )
    checkpoint = Checkpoint(tmp_path / "run.keras", seconds=seconds)
    checkpoint.set_model(model)
    checkpoint.set_params({"epochs": 5})
    for epoch in range(last):
        clock = types.SimpleNamespace(monotonic=lambda now=25 * epoch: now)
        monkeypatch.setattr(callbacks, "time", clock)
        model.stop_training = epoch + 1 == last < 5
        checkpoint.on_epoch_end(epoch)
    assert epochs == saved


def test_no_callback_waits_for_the_device_in_every_step():
    """Keras does, if one has its own end of a batch and is not `async_safe`."""
    base = keras.callbacks.Callback
    kinds = StopIfDiverged, *vars(callbacks).values(), *vars(follow).values()
    kinds = [k for k in kinds if isinstance(k, type) and issubclass(k, base)]
    assert len(kinds) == 10
    for kind in kinds:
        if not getattr(kind, "async_safe", False):
            for name in ("on_batch_end", "on_train_batch_end"):
                assert getattr(kind, name) is getattr(base, name), kind


def never(*args, **kwargs):
    raise AssertionError("A batch was trained on")


@pytest.mark.parametrize(
    "case, message",
    [
        ("a file in the way", "cannot be written: (Not a dir|File exists)"),
        (
            "a folder of that name",
            "run.keras cannot be written: it is a folder",
        ),
        ("no permission", "cannot be written: Permission denied"),
        ("a read-only place", "cannot be written: No such file or dir"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error_before_the_first_batch(
    model, images, tmp_path, monkeypatch, case, message
):
    path = tmp_path / "runs" / "run.keras"
    if case == "a file in the way":
        path.parent.write_text("a file")
    elif case == "a folder of that name":
        path.mkdir(parents=True)
        (path / "kept").write_text("kept")
    elif case == "a read-only place":
        if not os.path.exists("/proc/self"):
            pytest.skip("/proc, read-only for root too, is of Linux")
        path = pathlib.Path("/proc/runs/run.keras")
    else:
        path.parent.mkdir()
        path.write_bytes(b"old")
        path.parent.chmod(0o500)
        if os.access(path.parent, os.W_OK):
            pytest.skip("permissions do not hold for this user")
    before = contents(tmp_path)
    monkeypatch.setattr(model, "make_train_function", lambda: None)
    monkeypatch.setattr(model, "train_function", never, raising=False)
    with pytest.raises(OSError, match=message) as error:
        model.fit(images, verbose=0, callbacks=[Checkpoint(path)])
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="not on Linux")
def test_a_run_in_a_folder_that_cannot_be_written(images, tmp_path):
    """/proc is read-only for everybody, root included."""
    (tmp_path / "file").write_text("a file")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        with pytest.raises(OSError, match=f"{folder} cannot be written to: "):
            training.train(folder, images, None, SETTINGS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 8}, r"batch_size \(was 16, is 8\)"),
        (
            {"depth": 2, "learning_rate": 1e-3},
            r"depth \(was 1, is 2\), learning_rate \(was 0.01, is 0.001\)",
        ),
        ({"seed": 1}, r"seed \(was 0, is 1\)"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    finished, images, changes, message
):
    before = contents(finished)
    with pytest.raises(ValueError, match=message):
        training.train(
            finished, images, None, dataclasses.replace(SETTINGS, **changes)
        )
    assert contents(finished) == before


def test_a_run_goes_on_that_was_begun_with_fewer_settings(model, tmp_path):
    """As `train` of the command line wrote them when they had no type."""
    names = (
        "epochs batch_size size grey flip levels depth width permutation "
        "coupling bits learning_rate warmup clip ema network_dtype seed"
    )
    older = dataclasses.replace(SETTINGS, network="paper", dropout=0.0)
    settings = dataclasses.asdict(older)
    save_checkpoint(
        model,
        tmp_path / training.CHECKPOINT,
        epoch=1,
        settings={name: settings[name] for name in names.split()},
    )
    assert training.resume(tmp_path, settings)[1].epoch == 1
    settings["class_priors"] = "top"
    with pytest.raises(ValueError, match=r"class_priors \(was all, is top\)"):
        training.resume(tmp_path, settings)


def test_a_run_does_not_go_on_with_other_images(finished, images):
    before = contents(finished)
    other = images.copy()
    other[7, 1, 1] ^= 1  # as many, of the same size
    for data in (other, images[:59]):
        with pytest.raises(ValueError, match=r"images \(was 60 x 4 x 4 x 1, "):
            training.train(finished, data, None, SETTINGS)
    assert contents(finished) == before


@SLOW
def test_workers_change_nothing(model, images, record_property):
    """One model, put back to its start between the runs."""
    variables = model.variables + model.optimizer.variables
    model.fit(images[:16], verbose=0)
    start = [value for _, value in state(model)]
    ends = []
    for workers in (1, 3):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        sequence = ImageSequence(
            images, batch_size=16, flip=True, workers=workers
        )
        losses = model.fit(sequence, epochs=3, verbose=0).history["loss"]
        ends.append([*losses, *(value for _, value in state(model))])
    for one, two in zip(*ends, strict=True):
        assert_array_equal(one, two)
    one, two = (
        model.log_prob(images, seed=0, batch_size=size) for size in (32, 7)
    )
    difference = np.max(np.abs(one - two) / np.abs(one))
    assert difference < 1e-6
    record_property(
        "relative difference of log_prob from one batch size to another",
        f"{difference:.1e}",
    )


KILLED = [
    *("--levels=1", "--depth=1", "--width=4", "--flip", "--epochs=400"),
    *("--batch-size=16", "--ema=0.9", "--warmup=100"),
]


def run_command_line(folder):
    """What a child process does: `keras-glow train --resume`, quietly.

    Its epochs take no minute: it saves each of them.
    """
    training.Checkpoint = functools.partial(Checkpoint, seconds=0)
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        sys.exit(
            main(
                [
                    *("train", str(folder / "train.npz"), "--resume"),
                    *("--validation", str(folder / "valid.npz")),
                    *("--out", str(folder / "run"), *KILLED),
                ]
            )
        )


def rows(folder):
    file = folder / "run" / "history.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


class StopAfterEpochs(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epochs:
            os.kill(os.getpid(), signal.SIGTERM)


@SLOW
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork server")
@pytest.mark.parametrize(
    "name, signals, count",
    [
        ("SIGKILL", [signal.SIGKILL], 50),
        ("SIGTERM or Ctrl-C", [signal.SIGTERM, signal.SIGINT], 20),
    ],
    ids=["killed", "stopped"],
)
def test_a_run_ended_at_random_moments_ends_as_if_undisturbed(
    images, tmp_path, name, signals, count, record_property
):
    """A run that is ended over and over, and one that nothing disturbed.

    Every process is a fork of one that has imported everything.
    """
    np.savez(tmp_path / "train.npz", images=images)
    np.savez(tmp_path / "valid.npz", images=images[:20])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_glow.cli"])
    out, path = tmp_path / "run", tmp_path / "run" / training.CHECKPOINT
    rng = random.Random(0)
    epochs, waits = 0, []
    for number in range(count):
        child = context.Process(target=run_command_line, args=(tmp_path,))
        child.start()
        if number % 3 < 2 or name != "SIGKILL":
            # Anywhere in the epochs to come, else in the start as well.
            before = rows(tmp_path)
            while rows(tmp_path) in (before, -1):
                assert child.is_alive()
                time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        written = rows(tmp_path)
        assert child.is_alive()
        os.kill(child.pid, signals[number % len(signals)])
        start = time.monotonic()
        child.join()
        waits.append(time.monotonic() - start)
        assert child.exitcode == (-9 if name == "SIGKILL" else 130)
        model, progress = load_checkpoint(path)
        steps = int(to_numpy(model.optimizer.iterations))
        assert steps == progress.epoch * STEPS + progress.batch
        assert progress.epoch >= max(epochs, written - 1)
        if name == "SIGKILL":
            assert progress.batch == 0
        epochs = progress.epoch
        assert not list(out.glob(".checkpoint*"))
    training.remove_partials(out)
    # On to the end of an epoch, in this process; the other one in one go.
    saved = dict(progress.settings)
    del saved["images"]
    data = images, images[:20], training.Settings(**saved)
    for folder in (out, tmp_path / "undisturbed"):
        with pytest.raises(KeyboardInterrupt):
            training.train(folder, *data, [StopAfterEpochs(epochs + 2)])
        assert not [p for p in folder.rglob("*") if "partial" in p.name]
    assert read_progress(path).epoch == epochs + 2
    assert history(out) == history(folder)
    assert_same_model(
        *(
            keras.saving.load_model(f / training.CHECKPOINT)
            for f in (out, folder)
        )
    )
    assert contents(out / "samples") == contents(folder / "samples")
    record_property(
        f"runs ended by {name} at a random moment that went on to the same "
        "bits",
        f"{count} of {count}",
    )
    if name != "SIGKILL":
        record_property(
            f"longest wait after {name}, in seconds", f"{max(waits):.1f}"
        )
