"""The flow's doctor: it finds what is broken, and leaves what is not alone."""

import json
import math

import keras
import numpy as np
import pytest
from helpers import move_weights, random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import Glow
from keras_glow.analysis import probes
from keras_glow.callbacks import ReconstructionError
from keras_glow.cli.main import main
from keras_glow.flow.initialization import initialize
from keras_glow.layers import ActNorm, InvertibleConv1x1

pytestmark = pytest.mark.usefixtures("untraced_module")
SHAPE = (8, 8, 3)


def small(**kwargs):
    arguments = {"levels": 2, "depth": 1, "width": 8, **kwargs}
    return Glow(SHAPE, **arguments)


def moved(images, labels=None, size=0.1, **kwargs):
    """A model off its start, whose ActNorm is set from data."""
    model = small(**kwargs)
    move_weights(model, size)
    x = model.dequantize(images, seed=0)
    initialize(model.encoder, x if labels is None else [x, labels])
    return model


@pytest.fixture(scope="module")
def images():
    return random_images(16, SHAPE)


@pytest.fixture(scope="module")
def model(images):
    return moved(images)


@pytest.fixture
def healthy(model):
    """A model that a test may break: it is mended afterwards."""
    weights = model.get_weights()
    yield model
    model.set_weights(weights)


@pytest.fixture(scope="module")
def found(model, images):
    return model.diagnose(images)


def layer(found, name):
    return {report.name: report for report in found.layers}[name]


def ill_conditioned(size, condition):
    """A matrix of the given condition number."""
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=(size, size)))
    return u * np.geomspace(1, 1 / condition, size) @ v


def set_matrix(conv, matrix):
    """Makes W of an `InvertibleConv1x1` a matrix, with P = I."""
    lower, upper = np.eye(len(matrix)), np.array(matrix)
    for k in range(len(matrix)):
        lower[k + 1 :, k] = upper[k + 1 :, k] / upper[k, k]
        upper[k + 1 :] -= np.outer(lower[k + 1 :, k], upper[k])
    conv.p.assign(np.eye(len(matrix)))
    conv.sign.assign(np.sign(np.diag(upper)))
    conv.log_s.assign(np.log(np.abs(np.diag(upper))))
    conv.lower.assign(np.tril(lower, -1))
    conv.upper.assign(np.triu(upper, 1))


# A healthy model


@pytest.mark.parametrize(
    "kwargs",
    [
        {"permutation": "shuffle", "coupling": "additive"},
        {
            "permutation": "reverse",
            "memory": "remat",
            "num_classes": 3,
        },
        {"memory": "reversible", "levels": 1, "bits": 5},
    ],
    ids=["additive", "classes", "reversible"],
)
def test_every_kind_of_model_is_healthy(images, kwargs):
    labels = np.arange(16) % 3 if kwargs.get("num_classes") else None
    model = moved(images, labels, **kwargs)
    found = model.diagnose(images, labels)
    assert found.verdict.startswith("Healthy: all 3,072 values")
    assert (found.images, found.values, found.values_lost) == (16, 3072, 0)
    assert found.half_grey_level == 0.5 / 2**model.bits
    for report in found.layers:
        assert 0 <= report.error < 2e-6 and report.way_back_error < 1e-4
        moves_alone = {"squeeze_1", "squeeze_2"}
        if model.permutation != "invertible_conv":
            moves_alone.add("step_1_1/permutation")
            moves_alone.add("step_2_1/permutation")
        # What only moves values around has no rounding.
        assert (report.error == 0) == (report.name in moves_alone)
    scaled = [r.name for r in found.layers if r.smallest_scale is not None]
    kinds = {name.split("/")[1] for name in scaled}
    affine = model.coupling == "affine"
    assert kinds == ({"actnorm", "coupling"} if affine else {"actnorm"})
    assert len(found.reconstruction_error_ood) == 7


def test_the_numbers_are_those_of_the_model(model, found, images):
    names = [report.name for report in found.layers]
    assert names[:2] == ["squeeze_1", "step_1_1/actnorm"]
    assert names[-1] == "prior" and "split_1" in names
    assert len(names) == 2 * (1 + 3 + 1) and found.worst_layer in names
    # Reconstruction error: by the compiled models, as `decode` has it.
    x = model.dequantize(images, seed="center")
    z = model.encoder.predict(x, verbose=0)
    back = model.decoder.predict(z, verbose=0)
    assert found.reconstruction_error > 0
    assert_allclose(found.reconstruction_error, abs(back - x).max(), rtol=0.5)
    # Scales.
    actnorm = layer(found, "step_2_1/actnorm")
    scale = np.exp(to_numpy(model.bijections[4].actnorm.log_scale))
    assert_allclose(actnorm.smallest_scale, scale.min(), rtol=1e-6)
    assert_allclose(actnorm.largest_scale, scale.max(), rtol=1e-6)
    h = model.bijections[0](x)
    coupling, step = layer(found, "step_1_1/coupling"), model.bijections[1]
    h = step.permutation(step.actnorm(h))
    log_scale = to_numpy(step.coupling.log_scale(h))
    assert_allclose(coupling.smallest_scale, np.exp(log_scale.min()), rtol=1e-4)
    assert_allclose(coupling.largest_scale, np.exp(log_scale.max()), rtol=1e-4)
    assert_allclose(
        log_scale.sum(axis=(1, 2, 3)),
        to_numpy(step.coupling.log_det(h)),
        rtol=1e-4,
    )
    # Moments, and the divergence of a Gaussian with these.
    z = to_numpy(model.encoder(model.dequantize(images, seed=0)))
    for level, latents in zip(
        found.levels, (z[:, :96], z[:, 96:]), strict=True
    ):
        assert_allclose(level.mean, latents.mean(), atol=1e-5)
        assert_allclose(level.deviation, latents.std(), rtol=1e-4)
        mean, variance = latents.mean(), latents.var()
        expected = 0.5 * (mean**2 + variance - 1 - np.log(variance))
        assert_allclose(level.divergence, expected, rtol=1e-3, atol=1e-6)


def test_ratios_of_a_known_map(images):
    model = small(levels=1, permutation="reverse", coupling="additive")
    model.bijections[1].actnorm.log_scale.assign(np.full(12, math.log(2)))
    found = model.diagnose(images)
    assert_allclose(found.forward_ratio, 2, rtol=1e-3)
    assert_allclose(found.inverse_ratio, 0.5, rtol=1e-2)


def test_it_leaves_model_and_random_state_alone(model, found, images):
    def state():
        return [*map(to_numpy, model.variables), np.random.get_state()[1]]

    before = [array.copy() for array in state()]
    in_parts = model.diagnose(images, batch_size=8)
    for expected, actual in zip(before, state(), strict=True):
        assert_array_equal(actual, expected)
    assert in_parts.worst_layer == found.worst_layer
    assert_allclose(
        [level.mean for level in in_parts.levels],
        [level.mean for level in found.levels],
        atol=1e-6,
    )


def test_the_report_reads_and_goes_into_json(found):
    text = str(found)
    assert text.startswith("Healthy: all 3,072 values come back exactly")
    for report in found.layers:
        assert report.name in text
    assert f"worst layer: {found.worst_layer}\n" in text
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["verdict"] == found.verdict
    assert document["layers"][1]["smallest_scale"] > 0
    assert len(document["levels"]) == 2


def test_a_model_that_was_never_trained_is_told(images):
    found = small(levels=1, depth=1).diagnose(images)
    assert not found.problems
    assert "never set from data" in found.remarks[0]
    # Pixels are far from standard normal, and nothing moved them.
    assert "latents of level 1 are far from standard normal" in found.remarks[1]
    assert found.levels[0].divergence > 0.5


# A sick one


@pytest.mark.parametrize("condition", [1e3, 1e6])
def test_an_ill_conditioned_matrix_warns(healthy, images, condition):
    conv = healthy.bijections[4].permutation
    set_matrix(conv, ill_conditioned(24, condition))
    found = healthy.diagnose(images)
    name = "step_2_1/permutation"
    assert_allclose(layer(found, name).condition, condition, rtol=0.1)
    told = [p for p in found.problems if f"W of {name} has the cond" in p]
    assert len(told) == (condition > 1e4)
    if told:
        assert "e+05, more than 1e+04" in told[0]
        assert found.worst_layer == name


def test_condition_of_a_plain_matrix():
    conv = InvertibleConv1x1(lu=False)
    conv.build((None, 4, 4, 5))
    assert_allclose(probes.condition_number(conv), 1, rtol=1e-5)
    conv.kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0, 0.5]))
    assert_allclose(probes.condition_number(conv), 8, rtol=1e-5)
    conv.kernel.assign(np.diag([1.0, 2.0, 3.0, 4.0, 0.0]))
    assert probes.condition_number(conv) == math.inf


def test_a_singular_matrix_is_named(healthy, images):
    healthy.bijections[1].permutation.log_s.assign(np.full(12, -200.0))
    found = healthy.diagnose(images)
    assert found.problems == ["W of step_1_1/permutation is singular"]
    assert found.worst_layer == "step_1_1/permutation"
    assert math.isnan(found.layers[0].error)


def test_a_weight_that_is_not_finite_is_named(healthy, images):
    network = healthy.bijections[4].coupling.network
    kernel = to_numpy(network.kernel_1).copy()
    kernel[0, 0, 0, :2] = np.nan, np.inf
    network.kernel_1.assign(kernel)
    found = healthy.diagnose(images)
    name = "step_2_1/coupling/network/kernel_1"
    assert found.problems == [
        f"the weight {name} holds 2 of {kernel.size} values that are not finite"
    ]
    assert name.startswith(found.worst_layer)
    assert found.verdict.startswith("Not healthy: the weight step_2_1")
    assert name in str(found)


@pytest.fixture(scope="module")
def lossy(images):
    """A model whose first coupling scales by exp(-40)."""
    model = moved(images, size=0.01, scale="exp", levels=1, depth=2)
    model.bijections[1].coupling.network.bias_3.assign(6 * [-40.0] + 6 * [0.0])
    return model


def test_the_layer_that_loses_pixels_is_named(lossy, images):
    found = lossy.diagnose(images)
    # By itself it loses nothing: the next layer mixes its output away.
    coupling = layer(found, "step_1_1/coupling")
    assert coupling.error < 1e-5 < 1 < coupling.way_back_error
    assert coupling.largest_scale < 1e-16
    assert found.worst_layer == "step_1_1/coupling"
    assert found.values_lost > 1000
    assert found.reconstruction_error > found.half_grey_level
    assert f"{found.values_lost:,} of 3,072 values do not" in found.problems[0]
    assert "uniform noise" in found.problems[1]


def test_a_wrong_inverse_is_named(healthy, images, monkeypatch):
    class Wrong(ActNorm):
        def _inverse(self, z):
            return 1.01 * super()._inverse(z)

    actnorm = healthy.bijections[4].actnorm
    monkeypatch.setattr(actnorm, "__class__", Wrong)
    found = healthy.diagnose(images)
    assert found.worst_layer == "step_2_1/actnorm"
    assert_allclose(layer(found, found.worst_layer).error, 0.01, rtol=0.5)


def test_a_layer_that_overflows_is_named(healthy, images):
    healthy.bijections[4].actnorm.log_scale.assign(np.full(24, 100.0))
    found = healthy.diagnose(images)
    assert found.worst_layer == "step_2_1/actnorm"
    assert found.values_lost == found.values


# Arguments


def test_errors(model, images):
    with pytest.raises(ValueError, match="`images` .* integers 0..255"):
        model.diagnose(images / 255)
    with pytest.raises(ValueError, match="`images` .* 1 image or more"):
        model.diagnose(images[:0])
    with pytest.raises(ValueError, match="`labels` is expected to be None"):
        model.diagnose(images, labels=np.zeros(16, int))
    with pytest.raises(ValueError, match="`batch_size` .* >= 1"):
        model.diagnose(images, batch_size=0)
    with pytest.raises(ValueError, match="`count` .* >= 1"):
        ReconstructionError(images, count=0)
    callback = ReconstructionError(images / 255)
    callback.set_model(model)
    with pytest.raises(ValueError, match="`images` .* integers 0..255"):
        callback.on_train_begin()


def test_images_unlike_any(model, images):
    kinds = probes.out_of_distribution_images(model, images)
    assert len(kinds) == 7
    for kind in kinds.values():
        assert kind.shape[1:] == SHAPE and kind.dtype == "uint8"
    assert_array_equal(kinds["inverted"][0], 255 - images[0])
    board = kinds["checkerboard"][0, :, :, 0]
    assert set(board.ravel()) == {0, 255}
    assert np.all(board[1:] != board[:-1]) and np.all(board[0, ::2] == 0)
    assert np.any(kinds["shuffled"][0] != images[0])
    assert_array_equal(
        np.sort(kinds["shuffled"][0, :, :, 0], axis=None),
        np.sort(images[0, :, :, 0], axis=None),
    )
    assert len(probes.out_of_distribution_images(model)) == 5


# The command


def test_the_command(images, tmp_path, capsys):
    np.savez(tmp_path / "test.npz", images=images)
    data = str(tmp_path / "test.npz")
    model = moved(images, levels=1)
    model.save(tmp_path / "good.keras")
    model.bijections[1].permutation.log_s.assign(np.linspace(-20, 0, 12))
    model.save(tmp_path / "bad.keras")

    good = ["doctor", str(tmp_path / "good.keras"), data]
    assert main(good) == 0
    assert capsys.readouterr().out.startswith("Healthy: all 3,072")
    assert main([*good, "--count=3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 3 and document["problems"] == []

    assert main(["doctor", str(tmp_path / "bad.keras"), data, "--json"]) == 1
    captured = capsys.readouterr()
    assert "W of step_1_1/permutation" in json.loads(captured.out)["verdict"]
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("keras-glow: error: Not healthy: W of step_1_1/perm")


# The callback


def fitted(images, callbacks, epochs=2):
    model = Glow(SHAPE, levels=1, depth=1, width=8)
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9))
    history = model.fit(
        images,
        epochs=epochs,
        batch_size=8,
        verbose=0,
        callbacks=callbacks,
    )
    return model, history.history


def test_the_callback_logs_and_changes_nothing(images):
    plain, expected = fitted(images, [])
    model, history = fitted(images, [ReconstructionError(images, count=4)])
    errors = history.pop("reconstruction_error")
    unlike = history.pop("reconstruction_error_ood")
    assert history == expected
    for one, two in zip(model.variables, plain.variables, strict=True):
        assert_array_equal(to_numpy(one), to_numpy(two))
    assert len(errors) == len(unlike) == 2
    assert all(0 < error < 1e-5 for error in errors + unlike)
    # After the last epoch the model holds the averages, which were looked at.
    for error, trained in zip(
        errors, (fitted(images, [], epochs=1)[0], model), strict=True
    ):
        found = probes.reconstruction_errors(trained, images[:4])
        assert error == np.max(found)


def test_the_callback_warns_once_and_names_the_layer(lossy, images):
    callback = ReconstructionError(images)
    callback.set_model(lossy)
    callback.on_train_begin()
    logs = {}
    with pytest.warns(UserWarning, match="half a grey level") as warned:
        callback.on_epoch_end(0, logs)
        callback.on_epoch_end(1, {})
    messages = [str(warning.message) for warning in warned]
    messages = [m for m in messages if "half a grey level" in m]
    assert len(messages) == 2
    assert messages[0].startswith("reconstruction_error is ")
    assert messages[1].startswith("reconstruction_error_ood is ")
    for message in messages:
        assert "2.0e-03" in message and "step_1_1/coupling" in message
    assert logs["reconstruction_error"] > 0.002


def test_the_callback_without_images_and_with_classes():
    images = random_images(4, (4, 4, 1))
    model = Glow((4, 4, 1), levels=1, depth=1, width=4, num_classes=2)
    callback = ReconstructionError()
    callback.set_model(model)
    logs = {}
    callback.on_train_begin()
    callback.on_epoch_end(0, logs)
    assert list(logs) == ["reconstruction_error_ood"]
    callback = ReconstructionError(images, np.array([0, 1, 0, 1]), count=3)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0, logs)
    assert 0 < logs["reconstruction_error"] < 1e-6
    callback = ReconstructionError(images)
    callback.set_model(model)
    with pytest.raises(ValueError, match="labels"):
        callback.on_train_begin()
