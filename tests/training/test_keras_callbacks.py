"""Keras' callbacks: those that see weights see the weights of the metrics."""

import keras
import numpy as np
import pytest
from helpers import EAGERLY, random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow

pytestmark = [pytest.mark.every_backend, pytest.mark.slow_on_jax]
IMAGES = random_images(24, (4, 4, 3))
VALIDATION = random_images(8, (4, 4, 3), seed=1)
CALLBACKS = keras.callbacks


def new_model(optimizer=None, **arguments):
    model = keras_glow.Glow((4, 4, 3), levels=1, depth=1, width=4)
    averages = {"use_ema": True, "ema_momentum": 0.8}
    optimizer = optimizer or keras.optimizers.Adam(3e-2, **averages)
    model.compile(optimizer, **arguments)
    return model


@pytest.fixture(scope="module")
def compiled():
    """One model for all tests, and the values that it starts with."""
    model = new_model()
    model.optimizer.build(model.trainable_variables)
    return model, [to_numpy(v).copy() for v in variables(model)]


def variables(model):
    return model.variables + model.optimizer.variables


@pytest.fixture
def model(compiled):
    model, start = compiled
    for variable, value in zip(variables(model), start, strict=True):
        variable.assign(value)
    return model


@pytest.fixture(scope="module")
def undisturbed():
    """Weights after a training that nothing disturbed."""
    model = new_model()
    fit(model)
    return model.get_weights()


def fit(model, *callbacks, epochs=3, **arguments):
    return model.fit(
        IMAGES,
        batch_size=8,
        epochs=epochs,
        validation_data=VALIDATION,
        verbose=0,
        callbacks=list(callbacks),
        **arguments,
    ).history


# How each of Keras' callbacks is tried; None where another package is needed.
TRIED = {
    "BackupAndRestore": lambda p: CALLBACKS.BackupAndRestore(p / "b", 2),
    "CSVLogger": lambda p: CALLBACKS.CSVLogger(p / "a.csv"),
    "Callback": lambda p: CALLBACKS.Callback(),
    "CallbackList": lambda p: CALLBACKS.CallbackList([CALLBACKS.Callback()]),
    "EarlyStopping": lambda p: CALLBACKS.EarlyStopping(),
    "History": lambda p: CALLBACKS.History(),
    "LambdaCallback": lambda p: CALLBACKS.LambdaCallback(),
    "LearningRateScheduler": lambda p: CALLBACKS.LearningRateScheduler(
        lambda epoch, rate: rate / 2
    ),
    "ModelCheckpoint": lambda p: CALLBACKS.ModelCheckpoint(
        p / "{epoch}-{batch}.keras", save_freq=2
    ),
    "OrbaxCheckpoint": None,
    "ProgbarLogger": lambda p: CALLBACKS.ProgbarLogger(),
    "ReduceLROnPlateau": lambda p: CALLBACKS.ReduceLROnPlateau(patience=0),
    "RemoteMonitor": None,
    "SwapEMAWeights": lambda p: CALLBACKS.SwapEMAWeights(swap_on_epoch=True),
    "TensorBoard": None,
    "TerminateOnNaN": lambda p: CALLBACKS.TerminateOnNaN(),
}


def test_every_callback_of_keras_is_thought_of():
    kinds = (getattr(CALLBACKS, name) for name in dir(CALLBACKS))
    names = {kind.__name__ for kind in kinds if isinstance(kind, type)}
    assert names == set(TRIED)


@pytest.mark.parametrize("name", [n for n in TRIED if TRIED[n]])
def test_callbacks_of_keras_work(model, tmp_path, name):
    history = fit(model, TRIED[name](tmp_path), epochs=2)
    assert np.isfinite(history["val_loss"]).all()
    assert not model.optimizer.averaged


def best_file(model, path):
    history = fit(model, CALLBACKS.ModelCheckpoint(path, save_best_only=True))
    return keras.saving.load_model(path), history


def best_weights(model, path):
    path = path.with_suffix(".weights.h5")
    arguments = {"save_best_only": True, "save_weights_only": True}
    history = fit(model, CALLBACKS.ModelCheckpoint(path, **arguments))
    model.load_weights(path)
    return model, history


def early_stopping(model, path):
    arguments = {"restore_best_weights": True, "patience": 9}
    return model, fit(model, CALLBACKS.EarlyStopping(**arguments))


def beside_a_swap(model, path):
    swap = CALLBACKS.SwapEMAWeights(swap_on_epoch=True)
    keep = CALLBACKS.ModelCheckpoint(path, save_best_only=True)
    history = fit(model, swap, keep)
    return keras.saving.load_model(path), history


def own_checkpoint(model, path):
    history = fit(model, keras_glow.callbacks.Checkpoint(path))
    # The best is the last, or else there is nothing to compare with.
    history["val_loss"] = history["val_loss"][-1:]
    return keras.saving.load_model(path), history


@pytest.mark.parametrize(
    "keep",
    [best_file, best_weights, early_stopping, beside_a_swap, own_checkpoint],
)
def test_what_is_kept_is_what_was_validated(model, keep, tmp_path):
    kept, history = keep(model, tmp_path / "a.keras")
    loss = kept.evaluate(VALIDATION, verbose=0)[0]
    assert_allclose(loss, min(history["val_loss"]), rtol=1e-6)


def test_averages_behind_a_loss_scale(tmp_path):
    inner = keras.optimizers.Adam(3e-2, use_ema=True, ema_momentum=0.8)
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    model = new_model(optimizer, run_eagerly=EAGERLY)
    kept, history = best_file(model, tmp_path / "a.keras")
    loss = kept.evaluate(VALIDATION, verbose=0)[0]
    assert_allclose(loss, min(history["val_loss"]), rtol=1e-6)


def test_a_file_of_any_epoch_goes_on_to_the_same_bits(model, tmp_path):
    fit(model, CALLBACKS.ModelCheckpoint(tmp_path / "{epoch}.keras"))
    resumed = keras.saving.load_model(tmp_path / "2.keras")
    fit(resumed, initial_epoch=2)
    for one, two in zip(
        model.get_weights(), resumed.get_weights(), strict=True
    ):
        assert_array_equal(one, two)
    # Weights that were assigned in between are not overwritten.
    resumed = keras.saving.load_model(tmp_path / "1.keras")
    weight = resumed.trainable_variables[0]
    weight.assign(weight + 1)
    resumed.optimizer.learning_rate = 0.0
    expected = resumed.get_weights()
    fit(resumed, epochs=1)
    for one, two, weight in zip(
        expected, resumed.get_weights(), resumed.weights, strict=True
    ):
        if weight.dtype == "float32":
            assert_allclose(one, two, rtol=1e-6)


def test_averages_need_use_ema(model):
    with pytest.raises(ValueError, match="use_ema=True"):
        eager = new_model("adam", run_eagerly=EAGERLY)
        fit(eager, CALLBACKS.SwapEMAWeights(), epochs=1)


class Killed(CALLBACKS.Callback):
    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("killed")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_backup_goes_on_to_the_same_bits(
    model, undisturbed, tmp_path, damaged
):
    """From the one before, if the last is damaged."""

    def backup():
        return CALLBACKS.BackupAndRestore(tmp_path, double_checkpoint=True)

    with pytest.raises(RuntimeError, match="killed"):
        fit(model, backup(), Killed(8))
    if damaged:
        with open(tmp_path / "latest.weights.h5", "r+b") as file:
            file.truncate(1000)
    model = new_model()
    history = fit(model, backup())
    assert len(history["loss"]) == 1 + damaged
    for one, two in zip(undisturbed, model.get_weights(), strict=True):
        assert_array_equal(one, two)
    # The next training begins at its own first epoch.
    assert len(fit(model, epochs=1)["loss"]) == 1
