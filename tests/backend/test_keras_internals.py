"""Every private name of Keras that is used is still there."""

import keras
import numpy as np
import pytest

import keras_glow
from keras_glow import checks
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
    assert hasattr(keras.layers.Layer, "_clear_losses")
    assert keras_internals.may_clear_losses(model)
    with keras.StatelessScope(collect_losses=True):
        assert keras_internals.may_clear_losses(model)
        assert not keras_internals.may_clear_losses(model)
    layer = model.encoder.layers[1]
    with keras_internals.only_calls_of(model.encoder, [layer]):
        assert len(layer._inbound_nodes) == 1
    assert len(layer._inbound_nodes) > 1
    assert hasattr(model, "_compile_loss")
    assert model._initial_epoch is None
    assert hasattr(keras.layers.Layer, "_register_call_context_args")
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


class Refusing(keras.layers.Layer):
    def call(self, x):
        checks.refuse("x", "something else", x)


@pytest.mark.every_backend
@pytest.mark.parametrize("depth", [1, 2])
def test_keras_adds_nothing_to_an_error_of_a_check(depth):
    layer = inner = Refusing()
    if depth == 2:
        layer = keras.layers.Lambda(lambda x: inner(x))
    with pytest.raises(ValueError) as caught:
        layer(np.zeros((1, 2), "float32"))
    assert str(caught.value) == (
        "`x` is expected to be something else. "
        "Received: x=float32 tensor of shape (1, 2)"
    )


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "value, words",
    [
        (keras.ops.zeros((2, 3)), "float32 tensor of shape (2, 3)"),
        (keras.ops.zeros((2,), "int32"), "int32 tensor of shape (2,)"),
        (np.zeros((2, 3), "uint8"), "uint8 array of shape (2, 3) from 0 to 0"),
        (
            (keras.ops.zeros((2,)), np.zeros((1,), "bool")),
            "(float32 tensor of shape (2,), bool array of shape (1,))",
        ),
        ({"image": keras.ops.zeros((2,))}, "a dict with 'image'"),
        ((1, 2), "(1, 2)"),
    ],
)
def test_tensors_are_described_alike(value, words):
    assert checks.describe(value) == words
