"""`memory`: the same gradients from fewer stored activations."""

import keras
import numpy as np
import pytest
from helpers import flat, gradients, move_weights, random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import Glow, layers
from keras_glow.flow.initialization import check_inverses, initialize
from keras_glow.layers.chain import MEMORY, Chain
from keras_glow.losses import negative_mean, standard_normal_log_prob

SHAPE = (8, 8, 2)


def small(memory, **kwargs):
    arguments = {"levels": 2, "depth": 2, "width": 8, **kwargs}
    return Glow(SHAPE, memory=memory, **arguments)


@pytest.fixture(scope="module")
def images():
    return random_images(64, SHAPE)


def density_gradients(model, x, *context):
    """Gradients of a loss in training: with respect to x, and all weights."""
    z, log_det = model.encoder.get_layer("log_det_loss").input
    flow = keras.Model(model.encoder.inputs, [z, log_det])
    variables = model.trainable_variables

    def loss(x, *values):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            more = map(keras.ops.convert_to_tensor, context)
            inputs = [x, *more] if context else x
            z, log_det = flow(inputs, training=True)
        return negative_mean(standard_normal_log_prob(z) + log_det)

    return [
        to_numpy(gradient)
        for gradient in gradients(loss, [x, *map(to_numpy, variables)])
    ]


@pytest.mark.parametrize("memory", ["remat", "reversible"])
@pytest.mark.parametrize(
    "dtype, tolerance",
    [
        pytest.param("float32", 1e-4, marks=pytest.mark.slow),
        ("float64", 1e-9),
    ],
)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"permutation": "shuffle", "coupling": "additive"},
        {"network": "residual", "blocks": 2, "dropout": 0.5},
        {"context_shape": (3, 4, 5)},
        {"num_classes": 3, "class_couplings": True},
    ],
    ids=["affine", "additive", "dropout", "context", "class"],
)
def test_gradients_are_those_of_store(
    memory, dtype, tolerance, kwargs, float64
):
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (3, *SHAPE)).astype(dtype)
    context = []
    if shape := kwargs.get("context_shape"):
        context.append(rng.normal(size=(3, *shape)).astype(dtype))
    if classes := kwargs.get("num_classes"):
        context.append(np.arange(3) % classes)
    found = []
    for mode in ("store", memory):
        model = small(mode, dtype=dtype, **kwargs)
        move_weights(model, 0.1)
        found.append(density_gradients(model, x, *context))
    for expected, actual in zip(*found, strict=True):
        assert expected.any()
        error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
        assert error < tolerance


def fitted(memory, images, jit_compile=False):
    """A model after two epochs of two steps, and the losses of both."""
    model = small(memory, levels=1)
    model.compile(keras.optimizers.SGD(1e-5), jit_compile=jit_compile)
    history = model.fit(images, batch_size=32, epochs=2, verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize(
    "memory, jit_compile",
    [
        pytest.param("remat", False, marks=pytest.mark.slow),
        ("reversible", False),
        # XLA on TensorFlow compiles for long.
        pytest.param("reversible", True, marks=pytest.mark.slow),
        pytest.param("remat", True, marks=pytest.mark.slow),
    ],
)
def test_training_is_that_of_store(memory, jit_compile, images):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("torch.compile is not XLA")
    expected, expected_losses = fitted("store", images, jit_compile)
    assert expected_losses[1] < expected_losses[0]
    model, losses = fitted(memory, images, jit_compile)
    assert_allclose(losses, expected_losses, rtol=1e-5)
    assert_allclose(
        model.log_prob(images[:8], seed=0),
        expected.log_prob(images[:8], seed=0),
        rtol=1e-4,
    )
    decoded = model.decode(model.encode(images[:8]))
    assert_array_equal(decoded, images[:8])


@pytest.mark.slow
def test_a_file_loads_whatever_the_memory(tmp_path):
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *SHAPE))
    x = x.astype("float32")
    for memory in MEMORY:
        model = small(memory, levels=1)
        model.compile(keras.optimizers.SGD(1e-4))
        move_weights(model, 0.1)
        expected = to_numpy(model.encoder(x))
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert loaded.memory == memory
        strict = keras_glow.load_model(tmp_path / "model.keras")
        others = [small(m, levels=1, seed=1) for m in MEMORY if m != memory]
        for other in others:
            other.load_weights(tmp_path / "model.keras")
        for again in (loaded, strict, *others):
            assert_allclose(to_numpy(again.encoder(x)), expected, atol=1e-6)


def test_an_encoder_with_chains_survives_saving(images, tmp_path):
    model = small("reversible")
    move_weights(model, 0.1)
    x = model.dequantize(images[:4])
    model.encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    assert_allclose(to_numpy(loaded(x)), to_numpy(model.encoder(x)), atol=1e-6)


class Rounding(layers.Bijection):
    """Adds 1, and gives back what it was given up to 1 %."""

    def call(self, inputs, *args, training=None, **kwargs):
        assert training
        return super().call(inputs, *args, training=training, **kwargs)

    def _forward(self, x):
        return x + 1.0, self.zero_log_det(x)

    def _inverse(self, z):
        return 1.01 * (z - 1.0)


def test_an_inverse_that_is_not_accurate_is_refused():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32")
    good = [layers.FlowStep(width=8, name=f"good_{i}") for i in range(2)]
    Chain(good).check_inverses(x, training=True)
    masks = layers.FlowStep(width=8, network="residual", dropout=0.5)
    Chain([masks]).check_inverses(x, training=True)
    assert not to_numpy(masks.coupling.network.masks.state)[1]
    chain = Chain([good[0], Rounding(name="bad"), good[1]])
    with pytest.raises(
        ValueError, match="of 2e-05 at most. Received: bad,.* of 1e-02$"
    ):
        chain.check_inverses(x, training=True)
    # Networks in half precision would round as much.
    half = layers.FlowStep(width=8, network_dtype="bfloat16")
    chain = Chain([half, Rounding()])
    chain(x, training=True)
    chain.check_inverses(x, training=True)


def test_fit_refuses_a_step_that_loses_its_input(images):
    model = small("reversible", scale="exp")
    move_weights(model, 0.01)
    model.compile()
    # exp(-40) of what it was: the next permutation mixes it away.
    model.bijections[1].coupling.network.bias_3.assign(8 * [-40.0])
    for step in model.bijections[1:3]:
        step.actnorm.initialized.assign(1)
    with pytest.raises(ValueError, match="memory.*Received: step_1_1,"):
        model.fit(images, verbose=0)


def test_half_precision_networks_lose_little(images):
    """Rounding may fall otherwise in an input that is off by float32's."""
    found = {}
    for memory, dtype in (
        ("store", "float32"),
        ("store", "bfloat16"),
        ("remat", "bfloat16"),
        ("reversible", "bfloat16"),
    ):
        model = small(memory, network_dtype=dtype)
        x = model.dequantize(images, seed=0)
        initialize(model.encoder, x)
        move_weights(model, 0.03)
        check_inverses(model.encoder, x)
        found[memory, dtype] = np.concatenate(
            [g.ravel() for g in density_gradients(model, x)]
        )
    exact, rounded, again, reversible = found.values()
    assert_allclose(again, rounded, rtol=1e-4, atol=1e-4)
    error, own = (np.linalg.norm(g - rounded) for g in (reversible, exact))
    assert 0 < error < 0.3 * own


@pytest.mark.parametrize("memory", MEMORY)
def test_chain_maps_like_its_bijections(memory):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32")
    steps = [layers.FlowStep(width=8, seed=i) for i in range(2)]
    z, log_det = Chain(steps, memory)(x, log_det=0.0)
    move_weights(steps[0], 0.1)
    z, log_det = Chain(steps, memory)(x, log_det=0.0)
    expected, expected_log_det = x, 0.0
    for step in steps:
        expected, expected_log_det = step(expected, log_det=expected_log_det)
    assert_allclose(flat(z), flat(expected), atol=1e-6)
    assert_allclose(to_numpy(log_det), to_numpy(expected_log_det), rtol=1e-5)
