"""Every private name of Keras that is used is still there."""

import keras
import numpy as np
import pytest

import keras_glow
from keras_glow.backend import keras_internals


@pytest.fixture(scope="module")
def model():
    model = keras_glow.Glow((4, 4, 1), levels=1, depth=1, width=2)
    model.compile(keras.optimizers.Adam(use_ema=True))
    return model


@pytest.mark.every_backend
def test_names_of_keras(model):
    assert model.encoder in list(keras_internals.all_layers(model))
    assert keras_internals.iterations(keras.optimizers.Adam()) is not None
    keras_internals.synchronize(model)
    assert hasattr(model, "_compile_loss")
    assert hasattr(keras.Model, "jax_state_sync") == (
        keras.backend.backend() == "jax"
    )


@pytest.mark.every_backend
def test_fit_tells_evaluate_that_it_calls(model, monkeypatch):
    calls = []
    evaluate = keras_glow.Glow.evaluate

    def listen(self, *args, **kwargs):
        calls.append(keras_internals.is_called_by_fit(kwargs))
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(keras_glow.Glow, "evaluate", listen)
    images = np.zeros((4, 4, 4, 1), "uint8")
    model.fit(images, validation_data=images, verbose=0)
    model.evaluate(images, verbose=0)
    assert calls == [True, False]
    assert keras_internals.averages(model.optimizer) is not None
