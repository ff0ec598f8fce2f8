"""What is particular to a single layer."""

import keras
import numpy as np
import pytest
from helpers import jacobians, move_weights, to_numpy
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import layers
from keras_glow.backend import relu
from keras_glow.layers.coupling_network import CouplingNetwork
from keras_glow.layers.invertible_conv import plu_decomposition
from keras_glow.layers.residual_network import ResidualNetwork

pytestmark = pytest.mark.every_backend


@pytest.fixture
def x():
    return (
        np.random.default_rng(0).normal(3, 2, (64, 4, 4, 6)).astype("float32")
    )


def test_actnorm_adapts_to_mean_0_and_variance_1(x):
    layer = layers.ActNorm()
    layer.adapt(x)
    z = to_numpy(layer(x))
    assert_allclose(z.mean((0, 1, 2)), np.zeros(6), atol=1e-5)
    assert_allclose(z.std((0, 1, 2)), np.ones(6), atol=5e-5)


@pytest.mark.parametrize("spread", [0.0, 1e-8, 1e8])
def test_actnorm_survives_a_channel_of_any_spread(x, spread):
    x[..., 0] = 5 + spread * (x[..., 0] - 3)
    layer = layers.ActNorm()
    layer.adapt(x)
    z = layer(x)
    assert np.isfinite(to_numpy(z)).all()
    assert np.isfinite(to_numpy(layer.log_det(x))).all()
    assert np.abs(to_numpy(layer.log_scale)).max() <= 10


def test_actnorm_is_not_set_by_being_called(x):
    layer = layers.ActNorm()
    assert_array_equal(to_numpy(layer(x)), x)
    layer.inverse(x)
    assert int(to_numpy(layer.initialized)) == 0


def test_reverse_and_shuffle_only_move_channels(x):
    assert_array_equal(to_numpy(layers.Reverse()(x)), x[..., ::-1])
    shuffle = layers.Shuffle(seed=3)
    z = to_numpy(shuffle(x))
    assert_array_equal(np.sort(z, axis=-1), np.sort(x, axis=-1))
    assert_array_equal(z, x[..., to_numpy(shuffle.permutation)])
    assert_array_equal(z, to_numpy(layers.Shuffle(seed=3)(x)))


def test_plu_decomposition():
    matrix = np.random.default_rng(0).normal(size=(7, 7))
    p, lower, upper = plu_decomposition(matrix)
    assert_allclose(p @ lower @ upper, matrix, atol=1e-12)
    assert_array_equal(lower, np.tril(lower))
    assert_array_equal(np.diag(lower), np.ones(7))
    assert_array_equal(upper, np.triu(upper))
    assert_array_equal(np.sort(p.argmax(0)), np.arange(7))
    assert p.sum() == 7


@pytest.mark.parametrize("lu", [True, False])
def test_invertible_conv_starts_as_a_rotation(x, lu):
    layer = layers.InvertibleConv1x1(lu=lu, seed=5)
    z = to_numpy(layer(x))
    w = to_numpy(layer.matrix())
    assert_allclose(w @ w.T, np.eye(6), atol=1e-5)
    assert_allclose(np.linalg.det(w), 1, atol=1e-5)
    assert_allclose(to_numpy(layer.log_det(x)), np.zeros(64), atol=1e-4)
    assert_allclose(z[0, 1, 2], w @ x[0, 1, 2], atol=1e-4)


def test_invertible_conv_is_p_l_u_of_its_weights(x):
    layer = layers.InvertibleConv1x1(seed=5)
    layer(x)
    rng = np.random.default_rng(0)
    for weight in layer.trainable_weights:  # also the entries that are masked
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    p, sign, log_s, lower, upper = (
        to_numpy(w)
        for w in (layer.p, layer.sign, layer.log_s, layer.lower, layer.upper)
    )
    w = (
        p
        @ (np.tril(lower, -1) + np.eye(6))
        @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_s)))
    )
    assert_allclose(to_numpy(layer.matrix()), w, atol=1e-6)
    assert_allclose(to_numpy(layer.inverse_matrix()) @ w, np.eye(6), atol=1e-5)
    trainable = {weight.name for weight in layer.trainable_weights}
    assert trainable == {"log_s", "lower", "upper"}


def test_log_det_of_a_96_channel_matrix_of_tiny_determinant():
    layer = layers.InvertibleConv1x1(lu=False)
    layer.build((None, 1, 1, 96))
    layer.kernel.assign(0.3 * np.eye(96))
    x = np.zeros((1, 1, 1, 96), "float32")
    assert_allclose(to_numpy(layer.log_det(x)), [96 * np.log(0.3)], rtol=1e-5)


def test_squeeze_order_and_error():
    x = np.arange(16.0).reshape(1, 2, 4, 2)
    z = to_numpy(layers.Squeeze()(x))
    assert_array_equal(z[0, 0, 0], [0, 1, 2, 3, 8, 9, 10, 11])
    with pytest.raises(ValueError, match="multiples of 2.*shape"):
        layers.Squeeze()(np.zeros((1, 3, 4, 2)))


def test_new_couplings_and_splits_are_the_identity(x):
    for layer in (layers.AffineCoupling(8), layers.AdditiveCoupling(8)):
        assert_array_equal(to_numpy(layer(x)), x)
    kept, latent = layers.Split()(x)
    assert_array_equal(to_numpy(kept), x[..., :3])
    assert_array_equal(to_numpy(latent), x[..., 3:])


def test_the_sigmoid_scale_function_starts_at_sigmoid_2(x):
    z = to_numpy(layers.AffineCoupling(8, scale="sigmoid")(x))
    scale = 1 / (1 + np.exp(-2))
    assert_allclose(z[..., 3:], scale * x[..., 3:], rtol=1e-5)


@pytest.mark.parametrize("h", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_the_bounded_scale_function_is_bounded_both_ways(h):
    def network(x1):
        return ops.concatenate([ops.full_like(x1, h), ops.zeros_like(x1)], -1)

    layer = layers.AffineCoupling(network=network)
    x = np.ones((1, 2, 2, 4), "float32")
    z = layer(x)
    expected = np.exp(np.tanh(2 * h) / 2)
    assert_allclose(
        to_numpy(z)[..., 2:], expected * np.ones((1, 2, 2, 2)), 1e-5
    )
    assert_allclose(to_numpy(layer.inverse(z)), x, rtol=1e-5)


def test_the_first_half_conditions_and_is_kept(x):
    layer = layers.AffineCoupling(8)
    layer(x)
    for weight in layer.trainable_weights:
        weight.assign(weight + 0.1)
    z = to_numpy(layer(x))
    assert_array_equal(z[..., :3], x[..., :3])
    assert np.abs(z[..., 3:] - x[..., 3:]).min() > 0


def test_conditional_prior_uses_the_label(x):
    layer = layers.GaussianPrior(num_classes=2)
    layer([x, np.zeros(64, "int32")])
    layer.mu.assign(np.stack([np.zeros((4, 4, 6)), np.ones((4, 4, 6))]))
    labels = np.arange(64) % 2
    z = to_numpy(layer([x, labels]))
    assert_allclose(z, x - labels[:, None, None, None], atol=1e-6)


def test_the_network_comes_back_from_its_config():
    config = CouplingNetwork(
        16, 4, low_precision="bfloat16", seed=1, border=True, name="mine"
    ).get_config()
    again = CouplingNetwork.from_config(config)
    assert again.get_config() == config
    assert (again.width, again.channels, again.seed) == (16, 4, 1)
    assert (again.low_precision, again.border) == ("bfloat16", True)


def test_the_network_adapts_inside(x):
    network = CouplingNetwork(16, 4, seed=0)
    network(x)
    for norm in (network.norm_1, network.norm_2):
        norm.adapting = True
    network(x)
    hidden = to_numpy(
        ops.conv(x, network.kernel_1, padding="same") + network.norm_1.bias
    ) * np.exp(to_numpy(network.norm_1.log_scale))
    assert_allclose(hidden.mean((0, 1, 2)), np.zeros(16), atol=1e-4)
    assert_allclose(hidden.std((0, 1, 2)), np.ones(16), atol=1e-3)


def test_a_residual_block_is_the_formula(x):
    network = ResidualNetwork(16, 4, blocks=1, seed=0)
    network(x)
    block = network.blocks[0]
    h = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype("float32")
    x = ops.convert_to_tensor(h)
    change = ops.elu(ops.conv(ops.elu(x), block.kernel, padding="same"))
    change = to_numpy(change) @ to_numpy(block.gate_kernel)
    change, gate = np.split(change, 2, axis=-1)
    expected = h + change / (1 + np.exp(-gate))
    assert_allclose(to_numpy(block.add_to(x)), expected, atol=1e-5)


def test_dropout_zeroes_its_share_of_each_block_in_training_alone(x):
    network = ResidualNetwork(16, 4, blocks=2, dropout=0.25, seed=0)
    plain = ResidualNetwork(16, 4, blocks=2, seed=0)
    outputs = []
    for net in (network, plain):
        net(x)
        net.last_kernel.assign(np.full((3, 3, 16, 4), 0.1))
        outputs.append(to_numpy(net(x)))
    assert_array_equal(*outputs)
    masks = to_numpy(network._masks(x, True, True))
    assert_allclose(np.unique(masks), [0, 4 / 3], rtol=1e-6)
    assert np.mean(masks == 0) == pytest.approx(0.25, abs=0.05)
    assert (masks[0] != masks[1]).any()
    h = network._convolve(x, network.kernel)
    for block, mask in zip(network.blocks, masks, strict=True):
        h = block.add_to(h, ops.convert_to_tensor(mask))
    expected = network._convolve(ops.elu(h), network.last_kernel)
    actual = network(x, training=True, new_masks=False)
    assert_allclose(to_numpy(actual), to_numpy(expected), atol=1e-5)
    others = network(x, training=True)
    assert not np.allclose(to_numpy(others), to_numpy(actual))


def test_an_inverse_in_training_has_the_masks_of_the_last_call():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype("float32")
    layer = layers.AffineCoupling(8, network="residual", dropout=0.5, seed=0)
    layer(x)
    move_weights(layer, 0.3)
    for _ in range(2):
        z = layer(x, training=True)
        back = layer(z, inverse=True, training=True)
        assert_allclose(to_numpy(back), x, atol=1e-5)
    assert not np.allclose(to_numpy(layer.inverse(z)), x, atol=1e-3)


@pytest.mark.parametrize(
    "kind, last",
    [(CouplingNetwork, "kernel_3"), (ResidualNetwork, "last_kernel")],
)
def test_the_network_is_in_low_precision_in_training_only(x, kind, last):
    networks = [
        kind(16, 4, low_precision=half, seed=0) for half in (None, "bfloat16")
    ]
    outputs = []
    for network in networks:
        network(x)
        getattr(network, last).assign(np.full((3, 3, 16, 4), 0.1))
        outputs.append([to_numpy(network(x, training=t)) for t in (0, 1)])
    (full, same), (outside, training) = outputs
    assert_array_equal(full, same)
    assert_array_equal(full, outside)
    assert training.dtype == "float32"
    assert 1e-4 < np.abs(training - full).max() / np.abs(full).max() < 0.05


@pytest.mark.parametrize(
    "create, message",
    [
        (lambda: layers.AffineCoupling(scale="tanh"), "`scale`.*'tanh'"),
        (lambda: layers.FlowStep(permutation="mix"), "`permutation`.*'mix'"),
        (lambda: layers.FlowStep(coupling="none"), "`coupling`.*'none'"),
        (
            lambda: layers.AffineCoupling()(np.zeros((1, 2, 2, 1))),
            "at least 2 channels",
        ),
        (lambda: layers.Split()(np.zeros((1, 2, 2, 1))), "at least 2 channels"),
        (
            lambda: layers.AffineCoupling(network=lambda x: x)(
                np.zeros((1, 2, 2, 4))
            ),
            r"expected to return shape \(batch, 2, 2, 4\).*2\)",
        ),
    ],
)
def test_errors_say_what_was_expected(create, message):
    with pytest.raises(ValueError, match=message):
        create()


def test_no_layer_has_a_method_called_forward():
    # On Torch a Keras layer is an nn.Module: `forward` is its __call__.
    for name in layers.__all__:
        assert "forward" not in vars(getattr(layers, name))


def test_a_users_bijection_needs_two_methods(x):
    class Halve(layers.Bijection):
        def _forward(self, x):
            size = float(np.prod(x.shape[1:]))
            return x / 2, self.zero_log_det(x) - size * np.log(2)

        def _inverse(self, z):
            return z * 2

    layer = Halve()
    z = layer(keras.ops.convert_to_tensor(x))
    assert_allclose(to_numpy(layer.losses[0]), 96 * np.log(2), rtol=1e-6)
    assert_allclose(to_numpy(layer.inverse(z)), x)
    for call, name in (("__call__", "_forward"), ("inverse", "_inverse")):
        missing = f"Bijection must define `{name}"
        with pytest.raises(NotImplementedError, match=missing):
            getattr(layers.Bijection(), call)(x)


def test_relu_has_the_gradient_of_relu():
    x = np.array([-2.0, -0.0, 0.0, 1e-30, 3.0], "float32")
    assert_array_equal(
        to_numpy(relu(ops.convert_to_tensor(x))), np.maximum(x, 0)
    )
    assert_array_equal(
        np.diag(jacobians(relu, x[None])[0]), (x > 0).astype("float32")
    )
