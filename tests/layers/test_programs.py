"""On JAX what is called eagerly is one program for each kind of layer."""

import keras
import numpy as np
import pytest
from helpers import move_weights, random_images, to_numpy
from numpy.testing import assert_allclose

import keras_glow
from keras_glow.flow.initialization import check_inverses
from keras_glow.layers.programs import kind_of, shared_programs

pytestmark = [
    pytest.mark.every_backend,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX"),
]
SHAPE = (4, 8, 5)  # that of no other test, which would have compiled its share


@pytest.fixture
def compiled():
    """Gathers the seconds of each program that JAX compiles."""
    from jax import monitoring

    programs = []

    def listen(event, seconds, **kwargs):
        if event.endswith("backend_compile_duration"):
            programs.append(seconds)

    monitoring.register_event_duration_secs_listener(listen)
    yield programs
    monitoring.clear_event_listeners()


@pytest.fixture(scope="module")
def model():
    model = keras_glow.Glow(
        SHAPE, levels=2, depth=3, width=3, memory="reversible"
    )
    move_weights(model, 0.01)
    return model


def test_each_kind_of_layer_is_compiled_once(model, compiled):
    images = random_images(20, SHAPE)
    layers = {part for b in model.bijections for part in (b, *b.parts())}
    kinds = {(kind_of(a), *(w.shape for w in a.weights)) for a in layers}
    x = model.dequantize(images, seed=0)
    compiled.clear()
    check_inverses(model.encoder, x)
    # Some forward, some back; sums over all layers are operations.
    assert len(kinds) < len(compiled) < 3 * len(kinds)
    compiled.clear()
    model.diagnose(images)
    assert len(kinds) < len(compiled) < 5 * len(kinds)
    compiled.clear()
    model.diagnose(images)
    assert not compiled


def test_programs_do_what_the_layers_do(model):
    x = np.random.default_rng(0).normal(size=(20, *SHAPE)).astype("float32")
    for _ in range(2):
        z = to_numpy(model.encoder(x))
        with shared_programs(model):
            assert_allclose(to_numpy(model.encoder(x)), z, atol=1e-5)
            assert_allclose(to_numpy(model.decoder(z)), x, atol=1e-5)
        move_weights(model, 0.01)  # Programs must not hold them.
