"""The budget of time: its schedule, its end, and going on from a checkpoint."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import keras_glow
from keras_glow.callbacks import TimeBudget
from keras_glow.cli import run
from keras_glow.cli.settings import Settings

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), "uint8")


class Clock:
    """A clock on which every look takes a tenth of a second."""

    now = 0.0

    def __call__(self):
        self.now += 0.1
        return self.now


class Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rates = []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))


def fit(budget):
    budget.clock = Clock()
    model = keras_glow.Glow((8, 8, 3), levels=1, depth=1, width=4)
    model.compile(keras.optimizers.Adam(1.0))
    rates = Rates()
    model.fit(
        IMAGES, batch_size=1, epochs=99, verbose=0, callbacks=[budget, rates]
    )
    return rates.rates


@pytest.fixture(scope="module")
def whole():
    return fit(TimeBudget(0.6, 4e-3))


@pytest.mark.every_backend
@pytest.mark.slow_on_jax
def test_the_rate_rises_falls_and_ends_the_training(whole):
    rates = whole
    peak = int(np.argmax(rates))
    assert_allclose(rates[peak], 4e-3, rtol=0.02)
    assert 0 < peak < 0.1 * len(rates)
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    # A step or two take half a second, after which the rate is set anew.
    assert_allclose(rates[-1], 4e-5, rtol=0.3)
    middle = rates[peak + (len(rates) - peak) // 2]
    assert_allclose(middle, 2e-3, rtol=0.1)


def test_it_goes_on_from_the_time_that_is_spent(whole):
    half = fit(TimeBudget(0.6, 4e-3, 18))
    assert_allclose(len(half), len(whole) / 2, rtol=0.1)
    assert_allclose(half[0], 2e-3, rtol=0.1)
    assert TimeBudget(0.6, 4e-3, 36).over


@pytest.mark.parametrize(
    "arguments, message",
    [((0, 1e-3), "`minutes`.*> 0"), ((1, -1), "`learning_rate`.*> 0")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimeBudget(*arguments)


def test_a_run_may_go_on_for_more_epochs_but_not_by_another_clock(tmp_path):
    small = {"levels": 1, "depth": 1, "width": 4, "batch_size": 20}
    run.train(tmp_path, IMAGES, None, Settings(epochs=1, **small))
    model = run.train(tmp_path, IMAGES, None, Settings(epochs=3, **small))
    assert int(model.optimizer.iterations) == 6
    schedule = model.optimizer.inner_optimizer._learning_rate
    assert schedule.get_config()["decay_steps"] == 3  # after 3 of warm-up
    with pytest.raises(ValueError, match=r"minutes \(was None, is 1\)"):
        run.train(tmp_path, IMAGES, None, Settings(minutes=1, **small))


def test_a_run_by_minutes_knows_when_its_time_is_over(tmp_path):
    settings = Settings(
        epochs=1000,
        minutes=0.02,
        levels=1,
        depth=1,
        width=4,
        network="residual",
        blocks=1,
    )
    first = run.train(tmp_path, IMAGES, None, settings)
    again = run.train(tmp_path, IMAGES, None, settings)
    assert int(again.optimizer.iterations) == int(first.optimizer.iterations)
    assert run.earlier_settings(tmp_path) == settings
    assert keras_glow.load_model(tmp_path / "model.keras").blocks == 1
