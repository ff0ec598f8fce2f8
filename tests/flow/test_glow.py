"""The model: likelihood, training, saving, sampling."""

import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import (
    EAGERLY,
    jacobians,
    move_weights,
    random_images,
    to_numpy,
    untraced,
)
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import Glow
from keras_glow.data import ImageSequence
from keras_glow.flow import noise
from keras_glow.flow.initialization import is_initialized
from keras_glow.layers import ActNorm
from keras_glow.layers.programs import kind_of
from keras_glow.losses import StandardNormalNLL
from keras_glow.training.ema import averaged_weights

SHAPE = (8, 8, 3)


def small(image_shape=SHAPE, **kwargs):
    return Glow(image_shape, **{"levels": 2, "depth": 2, "width": 8, **kwargs})


@pytest.fixture(scope="module")
def images():
    return random_images(300, SHAPE)


@pytest.fixture(scope="module")
def trained(images):
    """A model after two epochs, and its history. Tests leave it as it is."""
    model = small(depth=1)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(
        images, epochs=2, validation_data=(images[:50], None), verbose=0
    )
    return model, history.history


def actnorms(model):
    return [
        to_numpy(layer.bias)
        for layer in model._flatten_layers()
        if isinstance(layer, ActNorm)
    ]


# Likelihood


def test_encoder_losses_are_the_log_det_of_the_jacobian(float64):
    model = small((4, 4, 2), dtype="float64")
    move_weights(model, 0.2)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 4, 4, 2))

    expected = np.linalg.slogdet(jacobians(model.encoder, x)).logabsdet
    model.encoder(x)
    loss = sum(to_numpy(loss) for loss in model.encoder.losses)
    assert_allclose(loss, -np.mean(expected), rtol=1e-9)


def test_log_prob_is_the_change_of_variables(images):
    model = small()
    move_weights(model, 0.1)
    x = model.dequantize(images[:4], seed="center")
    z = to_numpy(model.encoder(x))
    log_det = -4 * sum(to_numpy(loss) for loss in model.encoder.losses)
    normal = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=1)
    expected = normal.sum() + log_det - 4 * 192 * np.log(256)
    actual = model.log_prob(images[:4], seed="center")
    assert actual.shape == (4,)
    assert_allclose(actual.sum(), expected, rtol=1e-5)
    assert_allclose(
        model.bits_per_dim(images[:4], seed="center"),
        -actual / (192 * np.log(2)),
    )


def test_an_identity_flow_has_the_analytic_likelihood(images):
    # Reversed channels and new couplings: z is x in another order.
    model = small(permutation="reverse", coupling="additive")
    x = (images.astype("float64") + 0.5) / 256 - 0.5
    density = -0.5 * np.sum(x**2 + np.log(2 * np.pi), axis=(1, 2, 3))
    expected = 8 - density / (192 * np.log(2))
    actual = model.bits_per_dim(images, seed="center")
    assert_allclose(actual, expected, rtol=1e-6)
    # With noise of variance (1/256)**2 / 12 in place of the centre.
    model.compile()
    loss, bits = model.evaluate(images, verbose=0)
    noise = 192 / 256**2 / 24
    assert_allclose(
        bits, np.mean(expected) + noise / 192 / np.log(2), rtol=1e-5
    )
    assert_allclose(loss, bits * 192 * np.log(2), rtol=1e-6)


@pytest.mark.every_backend
def test_evaluate_agrees_with_log_prob(trained, images):
    model, _ = trained
    loss, bits = model.evaluate(images, verbose=0)
    assert [loss, bits] == model.evaluate(images, verbose=0)
    log_prob = model.log_prob(images, seed=1)
    assert_allclose(loss, -np.mean(log_prob), rtol=1e-3)
    assert_allclose(bits, loss / (192 * np.log(2)), rtol=1e-6)


def test_more_draws_tighten_the_bound(trained, images):
    model, _ = trained
    one = [model.log_prob(images[:20], seed=s) for s in range(5)]
    five = model.log_prob(images[:20], draws=5, seed=0)
    assert np.mean(five) > np.mean(one)
    assert_array_equal(five, model.log_prob(images[:20], draws=5, seed=0))
    assert np.any(one[0] != one[1])


def test_no_model_beats_the_entropy_of_uniform_noise():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2000, 4, 4, 1)).astype("uint8")
    test = rng.integers(0, 256, (1000, 4, 4, 1)).astype("uint8")
    model = small((4, 4, 1), levels=1, depth=1, width=16)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(noise, batch_size=100, epochs=8, verbose=0)
    bits = np.mean(model.bits_per_dim(test, seed=0))
    assert 8.0 - 0.02 < bits < 8.4


# Images and latents


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantize_undoes_dequantize(bits):
    model = untraced(small((4, 4, 1), levels=1, depth=1, bits=bits))
    images = np.arange(256, dtype="uint8").repeat(16).reshape(-1, 4, 4, 1)
    expected = images >> (8 - bits) << (8 - bits)
    for seed in ("center", 0, None):
        x = model.dequantize(images, seed)
        assert x.min() >= -0.5 and x.max() < 0.5
        assert_array_equal(model.quantize(x), expected)
    assert_array_equal(model.decode(model.encode(images)), expected)


def test_noise_just_below_1_stays_in_its_bin():
    noise = np.full((256,), np.nextafter(np.float32(1), 0), "float32")
    values = np.arange(256)
    x = keras_glow.flow.pixels.dequantize(values, ops.convert_to_tensor(noise))
    assert_array_equal(keras_glow.flow.pixels.quantize(x), values)


@pytest.mark.parametrize(
    "shape, levels",
    [
        ((8, 8, 3), 3),
        ((8, 4, 1), 2),
        pytest.param((6, 10, 2), 1, marks=pytest.mark.slow),
        pytest.param((16, 16, 4), 4, marks=pytest.mark.slow),
    ],
)
def test_shapes_and_exact_round_trip(shape, levels):
    model = small(shape, levels=levels, depth=1)
    images = random_images(5, shape)
    model.compile(run_eagerly=EAGERLY)
    model.fit(images, verbose=0)
    z = model.encode(images)
    assert z.shape == (5, math.prod(shape)) and z.dtype == "float32"
    assert sum(math.prod(s) for s in model.latent_shapes) == math.prod(shape)
    assert_array_equal(model.decode(z), images)
    assert model.sample(2, seed=0).shape == (2, *shape)


def test_encoder_and_decoder_share_every_weight(trained):
    model, _ = trained
    ids = [{id(w) for w in m.weights} for m in (model.encoder, model.decoder)]
    assert ids[0] == ids[1]
    assert isinstance(model.encoder, keras.Model)
    assert len(model.trainable_weights) == len(model.encoder.trainable_weights)


def test_non_finite_images_are_refused(trained):
    model, _ = trained
    with pytest.raises(ValueError, match="expected to be finite.*192 of 192"):
        model.quantize(np.full((1, *SHAPE), np.nan))


# Training


@pytest.mark.every_backend
def test_history_holds_loss_and_bits_per_dim(trained):
    _, history = trained
    assert set(history) == {
        "loss",
        "bits_per_dim",
        "skipped_steps",
        "val_loss",
        "val_bits_per_dim",
    }
    assert history["bits_per_dim"][1] < history["bits_per_dim"][0]
    assert_allclose(
        history["loss"],
        np.array(history["bits_per_dim"]) * 192 * np.log(2),
        rtol=1e-5,
    )


@pytest.mark.every_backend
def test_actnorm_is_set_from_data_once(images, tmp_path):
    model = small(depth=1)
    assert not is_initialized(model)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=EAGERLY)
    model.fit(images, batch_size=150, verbose=0)
    assert is_initialized(model)
    first = actnorms(model)
    assert all(np.any(bias) for bias in first)
    z = model.encode(images)  # of the levels, before they are standardised
    assert np.abs(z.mean()) < 0.1 and 0.8 < z.std() < 1.2

    model.fit(255 - images, batch_size=150, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert is_initialized(loaded)
    loaded.fit(255 - images, batch_size=150, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = small(depth=1, seed=1)
    fresh.load_weights(tmp_path / "model.weights.h5")
    fresh.compile(keras.optimizers.SGD(0.0), run_eagerly=EAGERLY)
    fresh.fit(255 - images, batch_size=150, verbose=0)
    for other in (model, loaded, fresh):
        for bias, expected in zip(actnorms(other), first, strict=True):
            assert_array_equal(bias, expected)


def convolutions(model):
    steps = (b for b in model.bijections if hasattr(b, "permutation"))
    return [to_numpy(step.permutation.matrix()) for step in steps]


@pytest.mark.every_backend
@pytest.mark.parametrize("whiten", [False, True])
def test_convolutions_are_set_from_data_once(images, tmp_path, whiten):
    # Neighbours are alike, so the channels of a squeezed image are too.
    smooth = np.cumsum(images.astype("int32"), axis=1).astype("uint8") // 4
    model = small(depth=2, whiten=whiten)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=EAGERLY)
    model.fit(smooth, batch_size=150, verbose=0)
    first = convolutions(model)
    for number, matrix in enumerate(first):  # two of each level
        rotates = np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-4)
        assert rotates != (whiten and number % 2 == 0)
    squeeze, step, other = model.bijections[:3]
    assert step.whiten == whiten and not other.whiten
    assert kind_of(step) == kind_of(other)  # They share what is traced.
    x = squeeze(model.dequantize(smooth, seed=0))
    rows = to_numpy(step.permutation(step.actnorm(x))).reshape(-1, 12)
    alike = np.abs(np.corrcoef(rows.T) - np.eye(12)).max()
    assert alike < 0.05 if whiten else alike > 0.2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for other in (model, loaded):
        other.fit(images, batch_size=150, verbose=0)
        for matrix, expected in zip(convolutions(other), first, strict=True):
            assert_allclose(matrix, expected, atol=1e-6)


def test_channels_that_are_the_same_are_whitened_within_limits():
    one = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    model = small(depth=5, bits=None, whiten=True)
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    grey = np.repeat(one, 3, axis=-1)
    model.fit(grey, batch_size=32, verbose=0)
    assert_allclose(model.decode(model.encode(grey)), grey, atol=1e-3)


def test_using_a_new_model_does_not_initialize_it(images):
    model = untraced(small())
    model.encode(images[:2])
    model.log_prob(images[:2])
    model.sample(2)
    assert not is_initialized(model)


def as_generator(images):
    for start in range(0, len(images), 32):
        yield (images[start : start + 32],)


def as_dataset(images):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(images).batch(32)


@pytest.fixture(scope="module")
def shallow():
    """A model that tests may train on."""
    model = small(levels=1, depth=1)
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        lambda images: images,
        lambda images: images.astype("int64"),
        lambda images: ImageSequence(images, batch_size=32),
        lambda images: ImageSequence(images, np.zeros(len(images))),
        as_generator,
        as_dataset,
    ],
    ids=["array", "int64", "sequence", "labels", "generator", "dataset"],
)
def test_fit_takes_any_data_without_targets(images, shallow, wrap):
    model, images = shallow, images[:70]
    if wrap in (as_generator, as_dataset):  # that ActNorm too is set from
        model = small(levels=1, depth=1)
        model.compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    steps = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda step, logs: steps.append(step)
    )
    history = model.fit(wrap(images), verbose=0, callbacks=[count]).history
    assert len(history["loss"]) == 1 and np.isfinite(history["loss"]).all()
    assert len(steps) == 3  # a generator has lost none of its batches
    assert np.isfinite(model.evaluate(wrap(images), verbose=0)).all()


def test_labels_beside_an_array_are_ignored_without_classes(images, shallow):
    images, labels = images[:32], np.zeros(32)
    shallow.fit(images, labels, validation_data=(images, labels), verbose=0)


def test_training_noise_is_new_in_every_step_and_reproducible(images):
    losses = []
    for _ in range(2):
        model = small(levels=1, depth=1)
        model.compile(keras.optimizers.SGD(0.0))
        history = model.fit(
            ImageSequence(images[:32], batch_size=32), epochs=3, verbose=0
        )
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3


def test_the_encoder_trains_by_itself(images):
    model = small(levels=1, depth=1)
    x = model.dequantize(images[:32], seed=0)
    model.encoder.compile(
        keras.optimizers.Adam(1e-3), StandardNormalNLL(), run_eagerly=EAGERLY
    )
    for targets in (None, x, np.zeros((len(x), 1))):
        history = model.encoder.fit(x, targets, epochs=2, verbose=0).history
        assert history["loss"][1] < history["loss"][0]
    assert is_initialized(model)


def test_the_encoder_of_a_conditional_model_trains_by_itself(images):
    model = small(levels=1, depth=1, num_classes=3)
    x = keras.ops.convert_to_tensor(model.dequantize(images[:32], seed=0))
    labels = np.arange(32, dtype="int32") % 3
    model.encoder.compile(
        keras.optimizers.Adam(1e-3), StandardNormalNLL(), run_eagerly=EAGERLY
    )
    history = model.encoder.fit([x, labels], epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert is_initialized(model)


def test_an_error_leaves_the_encoder_its_weights(images):
    model = small(levels=1, depth=1)
    x = model.dequantize(images, seed=0)
    model.encoder.compile(keras.optimizers.Adam(1e-3), StandardNormalNLL())

    def fail(batch, logs):
        raise RuntimeError("in the first step")

    callback = keras.callbacks.LambdaCallback(on_train_batch_begin=fail)
    with pytest.raises(RuntimeError, match="first step"):
        model.encoder.fit(x, verbose=0, callbacks=[callback])
    assert np.isfinite(model.log_prob(images, seed=0)).all()


class Endless(keras.utils.PyDataset):
    """Says how many batches it has by `num_batches`, as Keras 3 asks."""

    def __init__(self, images, batches):
        super().__init__()
        self.images, self.batches = images, batches

    @property
    def num_batches(self):
        return self.batches

    def __getitem__(self, index):
        return (self.images[:8],)


@pytest.mark.parametrize("batches", [None, 40])
def test_a_py_dataset_without_a_length(images, batches):
    model = small(levels=1, depth=1)
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    dataset = Endless(images, batches)
    model.fit(dataset, steps_per_epoch=2, shuffle=False, verbose=0)
    assert is_initialized(model)
    loss = model.evaluate(dataset, steps=2, verbose=0)
    assert np.isfinite(loss).all()


def test_loss_is_the_same_compiled_and_eager(images):
    losses = []
    for eager in (False, True):
        model = small()
        move_weights(model, 0.05)
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=eager)
        losses.append(model.evaluate(images[:37], verbose=0)[0])
    assert_allclose(losses[0], losses[1], rtol=1e-6)
    noise = -np.mean(model.log_prob(images[:37], draws=1, seed=0))
    assert_allclose(losses[0], noise, rtol=1e-3)


def test_fit_in_float64(images, float64):
    model = small(depth=1, dtype="float64")
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=EAGERLY)
    loss = model.fit(images, batch_size=150, verbose=0).history["loss"][0]
    assert_allclose(loss, -np.mean(model.log_prob(images, seed=0)), rtol=1e-2)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch.compile is not XLA"
)
def test_fit_runs_under_xla(images):
    model = small(levels=1, depth=1)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True)
    history = model.fit(images[:32], epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]


def weights_of(model):
    return [to_numpy(w).copy() for w in model.trainable_variables]


@pytest.mark.every_backend
def test_averaged_weights(images, tmp_path):
    model = small(levels=1, depth=1)
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9))
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.raw = weights_of(self.model)
            with averaged_weights(self.model):
                self.averaged = weights_of(self.model)
            for before, after in zip(
                self.raw, weights_of(self.model), strict=True
            ):
                assert_array_equal(before, after)  # to the last bit

        def on_epoch_end(self, epoch, logs=None):
            for held, average in zip(
                weights_of(self.model), self.averaged, strict=True
            ):
                assert_array_equal(held, average)
            loss = self.model.evaluate(images[:50], verbose=0)[0]
            seen.append((self.raw, self.averaged, loss, logs["val_loss"]))

    history = model.fit(
        images,
        epochs=2,
        validation_data=(images[:50], None),
        verbose=0,
        callbacks=[Watch()],
    )
    raw, averaged, loss, val_loss = seen[-1]
    assert any(np.any(r != a) for r, a in zip(raw, averaged, strict=True))
    assert_allclose(val_loss, loss, rtol=1e-6)
    # fit leaves the averages in the model, and the file holds them.
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for m in (model, loaded):
        for weight, average in zip(
            m.trainable_variables, averaged, strict=True
        ):
            assert_array_equal(to_numpy(weight), average)
    assert history.history["val_loss"][-1] == val_loss
    # A second `fit` starts from them.
    assert np.isfinite(model.fit(images, verbose=0).history["loss"]).all()


def test_schedules():
    constant = keras_glow.schedules.warmup(1.0, 4)
    values = [float(to_numpy(constant(i))) for i in (0, 2, 4, 5, 100)]
    assert_allclose(values, [0, 0.5, 1, 1, 1], rtol=1e-6)
    cosine = keras_glow.schedules.warmup_cosine(1.0, 14, 4)
    values = [float(to_numpy(cosine(i))) for i in (0, 2, 4, 9, 14, 99)]
    assert_allclose(values, [0, 0.5, 1, 0.505, 0.01, 0.01], rtol=1e-5)


@pytest.mark.parametrize(
    "half", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
)
def test_low_precision_networks_leave_everything_else_exact(images, half):
    model = small(depth=1, network_dtype=half)
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (half == "float16")
    history = model.fit(images, batch_size=150, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert {w.dtype for w in model.weights} <= {"float32", "int32"}
    full = small(depth=1)
    full.set_weights(model.get_weights())
    images = images[:9]
    assert_array_equal(model.encode(images), full.encode(images))
    assert_array_equal(
        model.log_prob(images, seed=0), full.log_prob(images, seed=0)
    )
    assert_array_equal(model.decode(model.encode(images)), images)


def test_the_policy_reaches_the_networks_alone(images, policy):
    policy("mixed_bfloat16")
    model = untraced(small())
    assert model.network_dtype == "bfloat16"
    assert model.encode(images[:3]).dtype == "float32"
    policy("float32")
    again = Glow.from_config(model.get_config())
    assert again.network_dtype == "bfloat16"


# Saving

SUBPROCESS = """
import sys, keras, numpy as np, keras_glow
path, out = sys.argv[1:]
model = keras.saving.load_model(path)
images = np.load(out + "/images.npy")
np.savez(
    out + "/answers.npz",
    log_prob=model.log_prob(images, seed=3),
    samples=model.sample(5, seed=4),
    z=model.encode(images),
    decoded=model.decode(model.encode(images)),
    steps=model.optimizer.iterations,
)
before = {id(w) for w in model.encoder.weights}
assert before == {id(w) for w in model.decoder.weights}
history = model.fit(images, epochs=1, verbose=0, shuffle=False)
np.save(out + "/loss.npy", history.history["loss"])
"""


@pytest.mark.parametrize(
    "permutation",
    [pytest.param("shuffle", marks=pytest.mark.slow), "invertible_conv"],
)
def test_one_file_restores_everything_in_a_new_process(
    images, tmp_path, permutation
):
    model = small(depth=1, permutation=permutation)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(images, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images[:40])
    subprocess.run(
        [
            sys.executable,
            "-c",
            SUBPROCESS,
            str(tmp_path / "model.keras"),
            str(tmp_path),
        ],
        check=True,
    )
    answers = np.load(tmp_path / "answers.npz")
    few = images[:40]
    assert_array_equal(answers["log_prob"], model.log_prob(few, seed=3))
    assert_array_equal(answers["samples"], model.sample(5, seed=4))
    assert_array_equal(answers["z"], model.encode(few))
    assert_array_equal(answers["decoded"], few)
    steps = int(to_numpy(model.optimizer.iterations))
    assert answers["steps"] == steps > 0
    # Training goes on as if it had never stopped: optimiser, noise, weights.
    history = model.fit(few, epochs=1, verbose=0, shuffle=False)
    assert_allclose(
        np.load(tmp_path / "loss.npy"), history.history["loss"], rtol=1e-6
    )


def test_a_save_that_fails_leaves_the_file_before(
    trained, tmp_path, monkeypatch
):
    model, _ = trained
    path = tmp_path / "folder" / "model.keras"
    model.save(path)
    before = path.read_bytes()

    def fail(model, path, **kwargs):
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match=f"{path} cannot be written: No space"):
        model.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["model.keras"]


def test_an_address_is_not_taken_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []

    def save(model, path, *args, **kwargs):
        written.append(path)

    monkeypatch.setattr(keras.Model, "save", save)
    small(depth=1).save("gs://bucket/model.keras")
    assert written == ["gs://bucket/model.keras"]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.data of unknown shapes"
)
def test_a_dataset_of_unknown_shape_is_refused_in_one_line(images):
    import tensorflow as tf

    model = small(levels=1, depth=1)
    model.compile(keras.optimizers.Adam(1e-3))
    for shape in (None, (None, None, None, 3), (8, None, 8, 3)):
        dataset = tf.data.Dataset.from_generator(
            lambda: iter([images[:8]]),
            output_signature=tf.TensorSpec(shape, "uint8"),
        )
        with pytest.raises(ValueError, match="`x` is.*ensure_shape") as error:
            model.fit(dataset, verbose=0)
        assert "\n" not in str(error.value)
        known = dataset.map(lambda x: tf.ensure_shape(x, (None, 8, 8, 3)))
        model.evaluate(known, verbose=0)


def test_encoder_and_decoder_are_models_that_save(trained, images, tmp_path):
    model, _ = trained
    x = model.dequantize(images[:4], seed="center")
    z = to_numpy(model.encoder(x))
    for half, inputs in ((model.encoder, x), (model.decoder, z)):
        half.save(tmp_path / "half.keras")
        loaded = keras.saving.load_model(tmp_path / "half.keras")
        assert_allclose(
            to_numpy(loaded(inputs)), to_numpy(half(inputs)), atol=1e-5
        )


def test_config_is_plain_and_complete():
    model = small(bits=5, num_classes=4, scale="exp", name="mine")
    config = model.get_config()
    assert all(
        isinstance(value, (int, float, str, type(None)))
        or all(isinstance(size, int) for size in value)
        for value in config.values()
    )
    assert Glow.from_config(config).get_config() == config


# Sampling


def test_a_seed_gives_the_same_images_in_any_batch(trained):
    model, _ = trained
    samples = model.sample(37, seed=5)
    assert_array_equal(samples[:4], model.sample(4, seed=5))
    assert_array_equal(samples, model.sample(37, seed=5, batch_size=8))
    assert_array_equal(samples[:1], model.sample(1, seed=5))
    assert np.any(samples != model.sample(37, seed=6))
    assert np.any(model.sample(3) != model.sample(3))


def test_temperature(trained):
    model, _ = trained
    mode = model.decode(np.zeros((1, 192)))
    assert_array_equal(
        model.sample(3, temperature=0, seed=1), mode.repeat(3, 0)
    )
    both = model.sample(3, temperature=[0.5, 0.5], seed=1)
    assert_array_equal(both, model.sample(3, temperature=0.5, seed=1))
    top = model.sample(3, temperature=[0, 0.5], seed=1)
    assert np.any(top != both)


@pytest.mark.parametrize("stream, start", [(0, 0), (3, 5)])
def test_noise_is_that_of_a_generator_of_seed_stream_and_image(stream, start):
    """So no version changes the images of a seed."""
    generators = [
        np.random.default_rng([7, stream, start + i]) for i in range(2)
    ]
    normal = noise.standard_normal(
        (2, 3, 4), 7, stream, range(start, start + 2)
    )
    expected = [rng.standard_normal((3, 4), "float32") for rng in generators]
    assert_array_equal(normal, expected, strict=True)
    generators = [np.random.default_rng([7, stream, i]) for i in range(2)]
    expected = [rng.random((3, 4), "float32") for rng in generators]
    assert_array_equal(noise.uniform((2, 3, 4), 7, stream), expected)
    assert noise.uniform((2, 3, 4), 7).dtype == "float32"
    for draw in (noise.standard_normal, noise.uniform):
        assert_array_equal(draw((2, 3, 4), 7), draw((2, 3, 4), 7, 0))
    assert_array_equal(
        noise.standard_normal((2, 3), 7)[1:],
        noise.standard_normal((1, 3), 7, numbers=[1]),
    )


def test_temperature_scales_the_latents_of_each_level(trained):
    model, _ = trained
    deviations = keras_glow.flow.noise.standard_deviations(
        [0.3, 1.1], model.latent_shapes
    )
    z = keras_glow.flow.noise.standard_normal((2000, 192), seed=0) * deviations
    assert deviations.dtype == "float32"
    with pytest.raises(ValueError, match="`temperature`.*1e\\+300"):
        noise.standard_deviations([0.3, 1e300], model.latent_shapes)
    first = math.prod(model.latent_shapes[0])
    assert_allclose(z[:, :first].std(), 0.3, rtol=0.02)
    assert_allclose(z[:, first:].std(), 1.1, rtol=0.02)


def test_sampling_nothing(trained):
    model, _ = trained
    assert model.sample(0).shape == (0, *SHAPE)
    assert model.sample(0).dtype == "uint8"


# Classes


def test_a_conditional_model_learns_its_classes():
    dark = random_images(100, (4, 4, 1)) // 2
    images = np.concatenate([dark, 255 - dark])
    labels = np.arange(200) // 100
    model = small((4, 4, 1), levels=1, depth=1, num_classes=2)
    untraced(model)
    # Decayed to nothing: at a constant rate the end is a matter of luck.
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 50 * 2)
    model.compile(keras.optimizers.Adam(rate))
    model.fit(images, labels, batch_size=100, epochs=50, verbose=0)
    right = model.log_prob(images, labels=labels, seed=0)
    wrong = model.log_prob(images, labels=1 - labels, seed=0)
    assert np.mean(right > wrong) > 0.95
    samples = model.sample(20, labels=np.arange(20) % 2, seed=0)
    assert samples[::2].mean() < samples[1::2].mean() - 30
    assert model.sample(3, labels=1, seed=0).shape == (3, 4, 4, 1)
    assert model.sample(3, seed=0).shape == (3, 4, 4, 1)
    decoded = model.decode(model.encode(images, labels), labels)
    assert_array_equal(decoded, images)
    assert np.isfinite(model.evaluate(images, labels, verbose=0)).all()


def test_splits_know_the_class_unless_the_top_prior_alone_does():
    images, labels = random_images(8, (8, 8, 1)), np.arange(8) % 2
    for class_priors in ("all", "top"):
        model = untraced(
            small((8, 8, 1), num_classes=2, class_priors=class_priors)
        )
        move_weights(model, 0.1)
        inputs = model.dequantize(images, "center"), labels
        z, other = (
            model.encode(images, labels),
            model.encode(images, 1 - labels),
        )
        top = math.prod(model.latent_shapes[-1])
        changed = np.any(z[:, :-top] != other[:, :-top], axis=1)
        assert np.all(changed == (class_priors == "all"))
        assert np.all(z[:, -top:] != other[:, -top:])
        x = model.decoder([z, inputs[1]])
        assert_allclose(to_numpy(x), inputs[0], atol=1e-5)


def test_the_classifier_learns_beside_the_flow(tmp_path):
    dark = random_images(100, (4, 4, 1)) // 2
    images = np.concatenate([dark, 255 - dark])
    labels = np.arange(200) // 100
    weight = 0.01
    arguments = {"levels": 1, "depth": 1, "num_classes": 2}
    model = small((4, 4, 1), classifier_weight=weight, **arguments)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(images, labels, epochs=15, verbose=0).history
    assert history["classifier_loss"][0] > history["classifier_loss"][-1]
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert logs["classifier_accuracy"] > 0.95
    nats = logs["bits_per_dim"] * 16 * math.log(2)
    expected = nats + weight * 16 * logs["classifier_loss"]
    assert_allclose(logs["loss"], expected, rtol=1e-5)
    # It guesses from what no label had a part in.
    z = model.encoder([model.dequantize(images, seed=0), labels])
    wrong = model.encoder([model.dequantize(images, seed=0), 1 - labels])
    for latents, own in ((z, labels), (wrong, 1 - labels)):
        top = model.latent_shapes[-1]
        latents = ops.reshape(latents[:, -math.prod(top) :], (-1, *top))
        h = model.bijections[-1].inverse([latents, own])
        guess = to_numpy(model.classifier(ops.mean(h, (1, 2)))).argmax(-1)
        assert np.mean(guess == labels) > 0.9
    model.save(tmp_path / "model.keras")
    loaded = keras_glow.load_model(tmp_path / "model.keras")
    assert_array_equal(
        to_numpy(loaded.classifier.kernel), to_numpy(model.classifier.kernel)
    )


# Bad input: see also test_arguments.py


@pytest.mark.every_backend
def test_an_error_inside_keras_loses_nothing(images, monkeypatch):
    # On JAX the variables are empty while Keras works.
    model = small(levels=1, depth=1)
    model.compile()
    model.fit(images[:32], verbose=0)
    before = [to_numpy(weight) for weight in model.weights]
    z = model.encode(images[:4])
    bad = ImageSequence((images[:32] / 255).astype("float32"))
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="integers 0..255.*float32"):
            method(bad, verbose=0)

    def interrupt(*args):
        raise KeyboardInterrupt

    on_jax = keras.backend.backend() == "jax"
    name = "_predict_stateless" if on_jax else "predict_function"
    with monkeypatch.context() as patch:
        patch.setattr(model.encoder, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.encode(images[:4])
    for weight, value in zip(model.weights, before, strict=True):
        assert_array_equal(to_numpy(weight), value)
    assert_array_equal(model.encode(images[:4]), z)
    model.fit(images[:32], verbose=0)


def test_a_copy_with_other_arguments_has_the_same_weights():
    model = untraced(small(depth=1, width=4, network="residual"))
    move_weights(model, 0.2)
    images = random_images(4, (8, 8, 3))
    changes = {"memory": "remat", "dropout": 0.1, "name": "copy"}
    copy = untraced(model.with_arguments(**changes))
    assert copy.name == "copy" and copy.memory == "remat"
    assert_array_equal(copy.encode(images), model.encode(images))
    large = untraced(model.with_arguments(image_shape=(16, 8, 3)))
    images = random_images(4, (16, 8, 3))
    assert_array_equal(large.decode(large.encode(images)), images)
    mu = [to_numpy(m.bijections[-1].mu) for m in (model, large)]
    assert mu[1].shape == (1, 4, 2, 24)
    expected = np.broadcast_to(mu[0].mean((1, 2), keepdims=True), mu[1].shape)
    assert_allclose(mu[1], expected, atol=1e-6)
    deeper = untraced(model.with_arguments(image_shape=(16, 8, 3), levels=3))
    old, new = (
        {w.path: to_numpy(w) for w in m.weights} for m in (large, deeper)
    )
    for path in old:
        if not path.startswith("prior/"):
            assert_array_equal(new[path], old[path])
    added = new.keys() - old.keys()
    assert {path.split("/")[0] for path in added} == {"steps_3", "split_2"}
    assert_array_equal(deeper.decode(deeper.encode(images)), images)
    guessing = model.with_arguments(num_classes=3, classifier_weight=0.1)
    guessing.with_arguments(memory="remat")
    labelled = model.with_arguments(num_classes=3, class_priors="top")
    assert labelled.sample(2, labels=[0, 2]).shape == (2, 8, 8, 3)
    for wrong in (
        {"image_shape": (8, 8, 1)},
        {"width": 5},
        {"levels": 1},
        {"network": "paper"},
    ):
        with pytest.raises(ValueError, match="`arguments` is expected to be"):
            model.with_arguments(**wrong)
