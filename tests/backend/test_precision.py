"""TensorFloat-32: off when a flow is there, unless it was allowed."""

import keras
import numpy as np
import pytest

import keras_glow
from keras_glow import layers
from keras_glow.backend import precision

pytestmark = pytest.mark.every_backend


def tf32_is_on():
    """What the backend would have a GPU do."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.tensor_float_32_execution_enabled()
    if backend == "jax":
        import jax

        return jax.config.jax_default_matmul_precision != "highest"
    import torch

    flags = {
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    }
    assert len(flags) == 1
    return flags.pop()


@pytest.fixture
def fresh(monkeypatch):
    """As before the first layer of a process, with TensorFloat-32 on."""
    keras_glow.allow_tf32(True)
    monkeypatch.setattr(precision, "_decided", False)
    yield
    keras_glow.allow_tf32(False)


def test_a_layer_turns_it_off(fresh):
    assert tf32_is_on()
    layers.Squeeze()
    assert not tf32_is_on()


def test_a_model_that_is_loaded_turns_it_off(fresh):
    keras_glow.Glow.from_preset("faces32")
    assert not tf32_is_on()


def test_it_stays_as_it_was_set(fresh):
    keras_glow.allow_tf32()
    layers.Squeeze()
    assert tf32_is_on()
    keras_glow.allow_tf32(False)
    assert not tf32_is_on()
    layers.Squeeze()
    assert not tf32_is_on()


def test_a_backend_without_the_setting_is_left_alone(fresh, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "numpy")
        keras_glow.allow_tf32(False)
    assert tf32_is_on()


def test_bad_argument():
    with pytest.raises(ValueError, match="True or False.*allowed='off'"):
        keras_glow.allow_tf32("off")


def test_every_product_of_a_flow_says_so_to_jax():
    if keras.backend.backend() != "jax":
        pytest.skip("the others have a setting of the process only")
    import jax

    model = keras_glow.Glow((8, 8, 1), levels=2, depth=1, width=4)
    x = np.zeros((1, 8, 8, 1), "float32")
    z = np.zeros((1, 64), "float32")
    for function, inputs in ((model.encoder, x), (model.decoder, z)):
        program = jax.make_jaxpr(lambda t, f=function: f(t))(inputs)
        found = list(products(program.jaxpr))
        assert len(found) > 6
        highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
        assert {equation.params["precision"] for equation in found} == {highest}


def products(jaxpr):
    """The matrix products and convolutions of a program of JAX."""
    import jax

    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from products(inner)
