"""The map of where an image's log-likelihood comes from."""

import numpy as np
import pytest
from helpers import move_weights, random_images, to_numpy, untraced
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import Glow, layers
from keras_glow.flow.log_prob_map import LogProbMap

SHAPE = (8, 16, 3)
MODELS = {
    "one level": {"levels": 1},
    "three levels": {"levels": 3},
    "shuffle": {"permutation": "shuffle", "scale": "exp"},
    "reverse": {"permutation": "reverse", "border": True, "bits": 5},
    "additive": {"coupling": "additive", "network": "residual"},
    "classes": {"num_classes": 3, "network": "residual", "memory": "remat"},
}


def model_of(name, shape=SHAPE):
    arguments = {"levels": 2, "depth": 1, "width": 4, **MODELS[name]}
    model = Glow(shape, **arguments)
    move_weights(model, 0.1)
    return untraced(model)


@pytest.mark.every_backend
@pytest.mark.parametrize("name", MODELS)
def test_its_sum_is_log_prob(name):
    model = model_of(name)
    images = random_images(3, SHAPE)
    arguments = {"seed": 1, "draws": 2}
    if model.num_classes:
        arguments["labels"] = [0, 2, 1]
    actual = model.log_prob_map(images, **arguments)
    assert actual.shape == (3, *SHAPE[:2])
    assert actual.dtype == model.dtype
    expected = model.log_prob(images, **arguments)
    assert_allclose(actual.sum((1, 2)), expected, rtol=1e-5)


@pytest.mark.every_backend
def test_a_pixel_changes_it_only_where_the_networks_see_it():
    model = model_of("one level", (16, 16, 1))
    images = np.full((2, 16, 16, 1), 100, "uint8")
    images[1, 5, 8] += 50
    one, other = model.log_prob_map(images, seed="center")
    changed = one != other
    # It is in place (2, 4) of the level. Two 3x3 convolutions see it from two
    # places off at most, and of a place all four pixels are alike.
    assert changed[4:6, 8:10].all()
    changed[:10, 4:14] = False
    assert not changed.any()
    places = one.reshape(8, 2, 8, 2)
    assert_array_equal(places, places[:, :1, :, :1] + np.zeros((2, 1, 2)))


@pytest.mark.every_backend
def test_what_is_not_known_by_position_is_shared_by_all():
    class Double(layers.Bijection):
        def _forward(self, x):
            return 2 * x, ops.full(x.shape[:1], 48 * np.log(2.0))

    x = np.zeros((2, 4, 4, 3), "float32")
    actual = to_numpy(LogProbMap([Double(), layers.Squeeze()])(x))
    normal = -0.5 * np.log(2 * np.pi)
    expected = np.full((2, 4, 4), 3 * (np.log(2) + normal))
    assert_allclose(actual, expected, rtol=1e-6)


def test_no_images_have_an_empty_map():
    model = model_of("one level")
    images = np.empty((0, *SHAPE), "uint8")
    assert model.log_prob_map(images).shape == (0, *SHAPE[:2])
