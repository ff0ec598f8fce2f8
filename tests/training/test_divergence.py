"""Steps that are not finite: left out, counted, and too many of them."""

import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import Glow, TrainingDiverged
from keras_glow.callbacks import Checkpoint
from keras_glow.losses import StandardNormalNLL
from keras_glow.training.checkpoint import load_checkpoint, save_checkpoint
from keras_glow.training.divergence import StopIfDiverged, first_nonfinite_layer

SLOW = pytest.mark.slow
SIZE = 16  # of a batch
BAD = {"loss": 13, "gradient": 14}


@keras.saving.register_keras_serializable(package="tests")
class Poisoned(Glow):
    """A Glow whose loss is NaN for a batch of 13s; its gradient, for 14s."""

    def call(self, images, training=None):
        z = super().call(images, training=training)
        if not training:
            return z
        bad = ops.all(ops.equal(images, BAD["loss"]))
        z = z + ops.where(bad, float("nan"), 0.0)
        bad = ops.all(ops.equal(images, BAD["gradient"]))
        p = ops.where(bad, 1e30, 0.0)
        return z + p * (p * z - ops.stop_gradient(p * z))  # + 0


class Batches(keras.utils.PyDataset):
    """Batches in the order of a list."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return (self.batches[index],)


def bad_batch(kind):
    return np.full((SIZE, 8, 8, 1), BAD[kind], "uint8")


def variables(model):
    return model.variables + model.optimizer.variables


def fit(model, batches, **kwargs):
    return model.fit(Batches(batches), shuffle=False, verbose=0, **kwargs)


@pytest.fixture(scope="module")
def batches():
    return list(random_images(8 * SIZE, (8, 8, 1)).reshape(8, SIZE, 8, 8, 1))


@pytest.fixture(scope="module")
def compiled(batches):
    """One model for all tests, and the values that it starts with."""
    model = Poisoned((8, 8, 1), levels=2, depth=1, width=8)
    model.compile(keras.optimizers.Adam(1e-3, use_ema=True))
    fit(model, batches[:1])
    return model, [to_numpy(v).copy() for v in variables(model)]


@pytest.fixture
def model(compiled):
    model, start = compiled
    restore(model, start)
    return model


def restore(model, values):
    for variable, value in zip(variables(model), values, strict=True):
        variable.assign(value)


def finite(model):
    return all(np.isfinite(to_numpy(v)).all() for v in model.weights)


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=SLOW)])
def test_a_bad_batch_changes_nothing(
    model, compiled, batches, count, record_property
):
    rng = np.random.default_rng(0)
    largest = 0.0
    for number in range(count):
        kind = list(BAD)[number % 2]
        step = rng.integers(1, len(batches))
        found = []
        restore(model, compiled[1])
        before = fit(model, batches[:step])
        # The noise of a step is that of its number.
        state = model.train_noise.state
        state.assign(state + ops.cast([0, 1], state.dtype))
        after = fit(model, batches[step:])
        found.append([to_numpy(v).copy() for v in model.weights])
        restore(model, compiled[1])
        fit(model, batches[:step])
        history = fit(model, [bad_batch(kind), *batches[step:]]).history
        assert history["skipped_steps"] == [1]
        assert before.history["skipped_steps"] == [0]
        if kind == "loss":
            for name in ("loss", "bits_per_dim"):
                assert_allclose(history[name], after.history[name], rtol=1e-6)
        assert np.isfinite(history["loss"]).all()
        assert finite(model)
        found.append([to_numpy(v) for v in model.weights])
        for one, two in zip(*found, strict=True):
            largest = max(largest, np.max(np.abs(one - two), initial=0))
        assert largest <= 1e-6
    record_property(
        "runs with a NaN batch at a random step that end as without it",
        f"{count} of {count}",
    )
    record_property(
        "largest difference of a weight from the run without the NaN batch",
        f"{largest:.1e}",
    )


def test_nine_in_a_row_do_not_end_training(model, batches):
    nine = [bad_batch("loss")] * 9
    history = fit(model, [*nine, batches[0], *nine], epochs=1).history
    assert history["skipped_steps"] == [18]
    assert int(to_numpy(model.optimizer.iterations)) == 2


def test_ten_in_a_row_do_whatever_the_epochs(model):
    """Epochs of four steps; no step is taken, so their mean is no number."""
    before = [to_numpy(v).copy() for v in model.trainable_variables]
    losses = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.append(logs["loss"])
    )
    with pytest.raises(TrainingDiverged) as error:
        fit(model, [bad_batch("gradient")] * 4, epochs=9, callbacks=[keep])
    assert "up to epoch 3, step 2. " in str(error.value)
    assert "The outputs of all layers are finite" in str(error.value)
    assert isinstance(error.value, FloatingPointError)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert_array_equal(to_numpy(variable), value)
    assert np.isfinite(losses).all()
    with pytest.raises(TrainingDiverged):
        fit(model, [bad_batch("loss")] * 4, epochs=3, callbacks=[keep])
    assert np.isnan(losses[2:]).all()


def test_the_step_is_that_of_the_tenth_whichever_thread_comes_first():
    callback = StopIfDiverged([])
    callback.on_train_batch_end(3, {"skipped_in_a_row": 11})
    callback.on_train_batch_end(2, {"skipped_in_a_row": 10})
    assert callback.step == 2


@pytest.mark.parametrize(
    "index, part, name",
    [
        (1, "actnorm", "step_1_1/actnorm"),
        (1, "coupling", "step_1_1/coupling"),
        (2, None, "split_1"),
        (4, "permutation", "step_2_1/permutation"),
        (5, None, "prior"),
    ],
)
def test_the_layer_is_named(model, batches, index, part, name):
    layer = model.bijections[index]
    weight = (getattr(layer, part) if part else layer).trainable_weights[-1]
    images = batches[0]
    assert first_nonfinite_layer(model, images) is None
    weight.assign(np.full(weight.shape, np.nan))
    assert first_nonfinite_layer(model, images) == name
    array = np.concatenate(batches)
    if part == "coupling":  # once as a whole, of an array and of a dataset
        for x in (array, Batches(batches)):
            # On JAX an error leaves the averages in the model.
            weight.assign(np.full(weight.shape, np.nan))
            with pytest.raises(TrainingDiverged, match=f"finite: {name}"):
                model.fit(x, epochs=2, batch_size=SIZE, verbose=0)


def test_the_layer_is_named_with_classes():
    model = Glow((8, 8, 1), levels=2, depth=1, width=8, num_classes=3)
    images = random_images(4, (8, 8, 1))
    assert first_nonfinite_layer(model, images) is None
    weight = model.bijections[-1].trainable_weights[-1]  # beyond the split
    weight.assign(np.full(weight.shape, np.nan))
    assert first_nonfinite_layer(model, images) == "prior"


def test_divergence_is_told_of_data_that_cannot_be_looked_at(model):
    def generator():
        for _ in range(10):
            yield (bad_batch("loss"),)

    # All of it is read when the end of training is decided.
    with pytest.raises(TrainingDiverged, match="its images|Its images"):
        model.fit(generator(), verbose=0)
    # Values that a compiled program can only make nan of.
    outside = [np.full((SIZE, 8, 8, 1), 300, "int32")] * 10
    good = random_images(SIZE, (8, 8, 1)).astype("int32")
    with pytest.raises(TrainingDiverged, match="step 11.*0..255.*300"):
        fit(model, [good, *outside, good])


def test_a_dataset_is_not_said_to_have_bad_gradients(model):
    tf = pytest.importorskip("tensorflow")
    good = random_images(SIZE, (8, 8, 1)).astype("int32")
    batches = np.stack([*[good] * 20, *[np.full_like(good, 300)] * 10])
    dataset = tf.data.Dataset.from_tensor_slices(batches)
    with pytest.raises(TrainingDiverged, match="Of the first images"):
        model.fit(dataset, verbose=0)


def test_a_learning_rate_of_a_million_ends_training_and_no_checkpoint(
    model, batches, tmp_path, record_property
):
    path = tmp_path / "run.keras"
    save_checkpoint(model, path, epoch=0)
    taken = int(to_numpy(model.optimizer.iterations))
    model.optimizer.learning_rate = 1e6
    try:
        with pytest.raises(TrainingDiverged, match="step_"):
            fit(model, batches, epochs=3, callbacks=[Checkpoint(path)])
    finally:
        model.optimizer.learning_rate = 1e-3
    taken = int(to_numpy(model.optimizer.iterations)) - taken
    assert taken <= 10
    assert finite(model)
    assert finite(load_checkpoint(path)[0])
    record_property(
        "steps taken at a learning rate of 1e6 before training ends", taken
    )


def constant(value):
    return np.full((64, 8, 8, 1), value, "uint8")


@pytest.mark.parametrize(
    "images",
    [constant(0), constant(255), np.repeat(constant(9)[:, :4], 2, axis=1)],
    ids=["black", "white", "grey"],
)
def test_constant_images(model, images):
    for layer in model._flatten_layers():
        if hasattr(layer, "initialized"):
            layer.initialized.assign(0)
    history = model.fit(images, batch_size=SIZE, epochs=2, verbose=0).history
    assert history["skipped_steps"][-1] == 0
    assert np.isfinite(history["loss"]).all()
    assert finite(model)


def test_channels_of_any_spread():
    """Continuous images, which only the encoder takes."""
    x = np.random.default_rng(0).normal(size=(64, 4, 4, 4)).astype("float32")
    x *= np.array([1e-8, 1, 1e8, 0], "float32")
    encoder = Glow((4, 4, 4), levels=1, depth=1, width=8).encoder
    encoder.compile(keras.optimizers.Adam(1e-3), loss=StandardNormalNLL())
    history = encoder.fit(x, x, batch_size=SIZE, epochs=5, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert finite(encoder)


def data_sets():
    digits = pytest.importorskip("sklearn.datasets").load_digits().images
    noise = np.random.default_rng(0).integers(0, 256, (640, 8, 8, 1))
    return {
        "smooth": random_images(640, (8, 8, 1)),
        "noise": noise.astype("uint8"),
        "digits": (digits[:640, ..., None] * 15.9).astype("uint8"),
    }


@pytest.mark.parametrize("seeds", [pytest.param(100, marks=SLOW)])
def test_no_seed_meets_a_nan(compiled, seeds, record_property):
    """200 steps with defaults, of one traced model: seeds give the weights."""
    model, _ = compiled
    skipped = 0
    for seed in range(seeds):
        fresh = Glow((8, 8, 1), levels=2, depth=1, width=8, seed=seed)
        start = [to_numpy(v) for v in fresh.variables]
        zeros = [np.zeros(v.shape, v.dtype) for v in model.optimizer.variables]
        for name, images in data_sets().items():
            restore(model, [*start, *zeros])
            model.optimizer.learning_rate = 1e-3
            history = model.fit(
                images, batch_size=SIZE, epochs=5, verbose=0
            ).history
            assert int(to_numpy(model.optimizer.iterations)) == 200, name
            assert np.isfinite(history["loss"]).all(), (name, seed)
            assert finite(model), (name, seed)
            skipped += history["skipped_steps"][-1]
    assert skipped == 0
    record_property(
        "steps with a NaN, 100 seeds x 200 steps x 3 data sets, defaults, "
        "a Glow of 2 levels, depth 1, width 8 on 8x8",
        f"{skipped} of {seeds * 600}",
    )
