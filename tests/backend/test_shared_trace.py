"""Functions that are traced once compute what they do when they are called."""

import keras
import numpy as np
import pytest
from helpers import move_weights, random_images, to_numpy
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import Glow, layers
from keras_glow.layers.chain import Chain, share_traces

pytestmark = [pytest.mark.every_backend, pytest.mark.slow_on_jax]
IMAGES = random_images(8, (8, 8, 3))


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="others have compiled programs"
)
@pytest.mark.parametrize(
    "memory, network", [("store", "paper"), ("remat", "residual")]
)
def test_training_and_latents_are_those_of_plain_calls(memory, network):
    found = []
    for shared in (True, False):
        model = Glow(
            IMAGES.shape[1:], 1, 2, 4, network=network, memory=memory, seed=1
        )
        move_weights(model, 0.1)
        share_traces(model.encoder, shared)
        model.compile(keras.optimizers.SGD(1e-5))
        model.fit(IMAGES, batch_size=4, epochs=2, verbose=0)
        share_traces(model.encoder, shared)
        z = model.encode(IMAGES[:3])
        assert_array_equal(model.decode(z), IMAGES[:3])
        found.append([z, *model.get_weights()])
    for one, two in zip(*found, strict=True):
        assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_new_weights_shapes_and_masks_are_seen():
    chain = Chain([layers.FlowStep(width=4, name=str(i)) for i in range(2)])
    step = chain.bijections[1]
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 4)).astype("float32")
    first = to_numpy(chain(x)[0])
    assert_allclose(to_numpy(chain(x[:2])[0]), first[:2], atol=1e-5)
    step.actnorm.bias.assign(np.ones(4))
    z, log_det = step(chain.bijections[0](x, log_det=0.0)[0], log_det=0.0)
    assert_allclose(to_numpy(chain(x)[0]), to_numpy(z), atol=1e-5)
    step = layers.FlowStep(width=8, network="residual", dropout=0.5, seed=0)
    chain = Chain([step])
    chain(x)
    move_weights(step, 0.3)
    one, two = (to_numpy(chain(x, training=True)[0]) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3


def test_a_network_of_ones_own_runs_every_time():
    calls = []

    def network(h):
        calls.append(1)
        return ops.concatenate([h, h * float(len(calls))], axis=-1)

    layer = layers.AffineCoupling(network=network)
    chain = Chain([layer])
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32")
    one, two = (to_numpy(chain(x)[0]) for _ in range(2))
    assert np.abs(one - two).max() > 1e-3
