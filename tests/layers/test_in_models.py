"""Layers in people's own models: wrapped, shared, called twice, nested."""

import copy
import functools

import keras
import numpy as np
import pytest
from helpers import flat, move_weights, to_numpy
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import layers
from keras_glow.losses import StandardNormalNLL

pytestmark = pytest.mark.every_backend

SHAPE = (4, 4, 4)


def new_step(seed=0):
    step = layers.FlowStep(width=4, seed=seed)
    step.build((None, *SHAPE))
    move_weights(step, 0.2)
    return step


def batch(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(6, *shape, *SHAPE)).astype("float32")


def nll(z, log_det):
    """The loss as the formula has it, from NumPy arrays."""
    z = z.reshape(len(z), -1).astype("float64")
    log_prob = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1)
    return -np.mean(log_prob + log_det)


def forward(x, *bijections):
    """Latents and log-determinants of one bijection after another."""
    log_det = 0.0
    for bijection in bijections:
        log_det = log_det + to_numpy(bijection.log_det(x))
        x = to_numpy(bijection(x))
    return x, log_det


def over_time(step):
    """The step for each of three images of a sequence."""
    x = batch(3)
    frames = keras.Input((3, *SHAPE))
    outputs = keras.layers.TimeDistributed(step)(frames)
    z, log_det = forward(x.reshape(-1, *SHAPE), step)
    return frames, outputs, x, z.reshape(x.shape), log_det.reshape(6, 3).sum(1)


def called_twice(step):
    image, x = keras.Input(SHAPE), batch()
    return image, step(step(image)), x, *forward(x, step, step)


def shared(step):
    """The step in this model, and in another before it."""
    image, x, other = keras.Input(SHAPE), batch(), new_step(seed=1)
    keras.Model(image, step(image))
    image = keras.Input(SHAPE)
    return image, other(step(image)), x, *forward(x, step, other)


def nested_twice(step):
    """A model of the step for each of two images: a Siamese network."""
    image, x, y = keras.Input(SHAPE), batch(), batch(seed=1)
    inner = keras.Model(image, step(image))
    pair = [keras.Input(SHAPE), keras.Input(SHAPE)]
    outputs = keras.layers.Concatenate()([inner(image) for image in pair])
    (z1, log_det1), (z2, log_det2) = forward(x, step), forward(y, step)
    z = np.concatenate([z1, z2], axis=-1)
    return pair, outputs, [x, y], z, log_det1 + log_det2


def encoder_twice(step):
    """The encoder of a Glow for each of two images."""
    glow = keras_glow.Glow(SHAPE, levels=1, depth=1, width=4)
    move_weights(glow, 0.2)
    pair = [keras.Input(SHAPE), keras.Input(SHAPE)]
    outputs = keras.layers.Concatenate()([glow.encoder(x) for x in pair])
    x, y = batch(), batch(seed=1)
    (z1, log_det1), (z2, log_det2) = (
        forward(x, *glow.bijections),
        forward(y, *glow.bijections),
    )
    z = np.concatenate([flat(z1), flat(z2)], axis=-1)
    return pair, outputs, [x, y], z, log_det1 + log_det2


def in_sequential(step):
    model = keras.Sequential([keras.Input(SHAPE), layers.Reverse(), step])
    x = batch()
    z, log_det = forward(x, *model.layers)
    return model.inputs, model.outputs, x, z, log_det


@pytest.mark.parametrize(
    "build",
    [
        over_time,
        called_twice,
        shared,
        nested_twice,
        encoder_twice,
        in_sequential,
    ],
)
def test_outputs_and_losses_are_those_of_the_formula(build):
    inputs, outputs, x, z, log_det = build(new_step())
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), StandardNormalNLL())
    assert_allclose(flat(model.predict_on_batch(x)), flat(z), atol=1e-4)
    targets = np.zeros((6, 1))
    loss = model.evaluate(x, targets, verbose=0)
    assert_allclose(loss, nll(z, log_det), rtol=1e-5)
    history = model.fit(x, targets, verbose=0).history
    assert_allclose(history["loss"], [loss], rtol=1e-5)


def test_a_glow_inside_a_model_repeats_itself():
    glow = keras_glow.Glow((4, 4, 1), levels=1, depth=1, width=4)
    images = np.arange(96, dtype="uint8").reshape(6, 4, 4, 1)
    expected = glow.predict(images, verbose=0)
    image = keras.Input((4, 4, 1), dtype="uint8")
    model = keras.Model(image, glow(image))
    for _ in range(2):
        assert_allclose(to_numpy(glow(images)), expected, atol=1e-4)
        assert_allclose(model.predict(images, verbose=0), expected, atol=1e-4)


def test_tensors_and_arrays_go_together():
    step = layers.FlowStep(width=4, seed=0, context_channels=2)
    x, context = batch(), batch()[..., :2]
    expected = to_numpy(step([x, context]))
    tensor = ops.convert_to_tensor
    for pair in ([tensor(x), context], [x, tensor(context)]):
        assert_array_equal(to_numpy(step(pair)), expected)
    glow = keras_glow.Glow((4, 4, 1), 1, 1, 4, num_classes=3)
    labels = np.arange(6) % 3
    z = glow.encoder([tensor(x[..., :1]), labels])
    glow.decoder([z, labels])
    glow((tensor(x[..., :1].astype("uint8")), labels))


def test_a_deep_copy_is_a_layer_of_its_own():
    step, x = new_step(), batch()
    twin = copy.deepcopy(step)
    z = to_numpy(step(x))
    assert_array_equal(to_numpy(twin(x)), z)
    move_weights(twin)
    assert_array_equal(to_numpy(step(x)), z)
    assert np.abs(to_numpy(twin(x)) - z).max() > 0.01


def test_two_glows_fit_into_one_model():
    a, b = (
        keras_glow.Glow((4, 4, 1), levels=2, depth=1, width=4, seed=seed)
        for seed in (1, 2)
    )
    image = keras.Input((4, 4, 1))
    outputs = [
        a.encoder(image),
        b.encoder(image),
        a.scorer(image),
        b.scorer(image),
        b.decoder(a.encoder(image)),
    ]
    x = batch()[..., :1]
    expected = [
        a.encoder(x),
        b.encoder(x),
        a.scorer(x),
        b.scorer(x),
        b.decoder(a.encoder(x)),
    ]
    model = keras.Model(image, outputs)
    for actual, one in zip(model(x), expected, strict=True):
        assert_allclose(to_numpy(actual), to_numpy(one), atol=1e-5)


def convolution():
    return keras.layers.Conv2D(4, 3, padding="same")


class Callable:
    """A network that is an object, but no layer."""

    def __init__(self):
        self.convolution = convolution()

    def __call__(self, x):
        return self.convolution(x)

    def method(self, x):
        return self.convolution(x)


def closure():
    inner = convolution()
    return lambda x: inner(ops.tanh(x))


def built_closure():
    inner = convolution()
    inner.build((None, None, None, 2))
    return lambda x: inner(x)


NETWORKS = (
    closure,
    built_closure,
    convolution,
    lambda: functools.partial(lambda f, x: f(x), convolution()),
    lambda: lambda x, f=convolution(): f(x),  # noqa: B008
    lambda: Callable(),
    lambda: Callable().method,
    lambda: keras.Sequential([convolution()]),
)


# How a network is built depends on whether the size is known; where its
# weights are found does not.
@pytest.mark.parametrize(
    "network, size",
    [(n, 4) for n in NETWORKS] + [(n, None) for n in NETWORKS[:3]],
)
def test_the_weights_of_any_network_are_trained(network, size):
    layer = layers.AffineCoupling(network=network())
    image = keras.Input((size, size, 4))
    model = keras.Model(image, layer(image))
    before = [to_numpy(weight) for weight in model.trainable_weights]
    assert [weight.shape for weight in before] == [(3, 3, 2, 4), (4,)]
    model.compile(keras.optimizers.SGD(0.1), StandardNormalNLL())
    x = batch()
    # The second batch is smaller.
    model.fit(x, np.zeros((6, 1)), batch_size=4, verbose=0)
    for old, new in zip(before, model.trainable_weights, strict=True):
        assert np.abs(to_numpy(new) - old).max() > 0
    assert_allclose(to_numpy(layer.inverse(layer(x))), x, atol=1e-4)


@pytest.mark.parametrize(
    "create",
    [
        lambda: layers.FlowStep(width=4),
        lambda: layers.FlowStep("shuffle", "additive", width=4),
        lambda: layers.InvertibleConv1x1(),
        lambda: layers.InvertibleConv1x1(lu=False),
        lambda: layers.Shuffle(),
        lambda: layers.AffineCoupling(width=4),
    ],
)
def test_layers_without_a_seed_follow_that_of_keras(create):
    def start():
        layer = create()
        layer.build((None, 2, 2, 12))
        return flat([w[None] for w in layer.get_weights()])

    keras.utils.set_random_seed(7)
    first, second = start(), start()
    keras.utils.set_random_seed(7)
    assert_array_equal(start(), first)
    assert np.abs(second - first).max() > 0


@pytest.mark.parametrize("how", ["argument", "before it is built"])
def test_what_is_in_a_frozen_layer_is_not_trained(how):
    step = layers.FlowStep(width=4, trainable=how != "argument")
    if how != "argument":
        step.trainable = False
    image = keras.Input((4, 4, 4))
    model = keras.Model(image, step(image))
    assert not model.trainable_variables
    assert not step.trainable_weights
    step.trainable = True
    assert len(model.trainable_variables) == len(step.trainable_weights) > 9
