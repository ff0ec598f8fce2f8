"""Keras' methods: each argument is used, or refused in a line that names it."""

import copy
import inspect
import pathlib
import pickle
import re

import keras
import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow.training.arguments import REFUSED

pytestmark = [pytest.mark.every_backend, pytest.mark.slow_on_jax]
DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "keras.md"
IMAGES = random_images(24, (4, 4, 3))

# What every argument of Keras' methods is, by the names it has there. One that
# Keras adds is in none of the lists, and fails the walk until it is.
USED = {
    "compile": "optimizer loss run_eagerly steps_per_execution jit_compile "
    "auto_scale_loss",
    "fit": "x y batch_size epochs verbose callbacks validation_split "
    "validation_data shuffle initial_epoch steps_per_epoch validation_steps "
    "validation_batch_size validation_freq",
    "evaluate": "x y batch_size verbose steps callbacks return_dict",
    "predict": "x batch_size verbose steps callbacks",
    "train_on_batch": "x y return_dict",
    "test_on_batch": "x y return_dict",
    "predict_on_batch": "x",
    "save": "filepath overwrite zipped",
    "save_weights": "filepath overwrite max_shard_size",
    "load_weights": "filepath skip_mismatch",
    "export": "filepath format verbose input_signature",
    "summary": "line_length positions print_fn expand_nested show_trainable "
    "layer_range",
    "get_layer": "name index",
    "quantize": "",
    "get_compile_config": "",
    "compile_from_config": "config",
}


def new_model(**arguments):
    return keras_glow.Glow((4, 4, 3), levels=1, depth=1, width=4, **arguments)


@pytest.fixture(scope="module")
def model():
    model = new_model()
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(IMAGES, verbose=0)
    return model


def parameters(method):
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(getattr(keras.Model, method))
    return [
        name
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind not in kinds
    ]


def used(method, name):
    return name in USED[method].split() or name not in REFUSED


@pytest.mark.parametrize("method", USED)
def test_every_argument_of_keras_is_thought_of(method):
    assert [n for n in parameters(method) if used(method, n)] == (
        USED[method].split()
    )


def test_the_document_has_every_method_that_is_overridden():
    text = DOCUMENT.read_text()
    for kind in keras_glow.Glow.__mro__:
        if kind is keras.Model:
            break
        for name in vars(kind):
            if not name.startswith("_") and hasattr(keras.Model, name):
                assert f"`{name}`" in text, name
    for name in REFUSED:
        assert f"`{name}`" in text, name


def rows(model):
    """The rows of a summary: name to shapes and parameters."""
    lines = []
    model.summary(150, print_fn=lines.append)
    row = r"│ (\w+) \(\w+\) +│ [\[(]*(.+?)[\])]* +│ +([\d,]+) +│"
    return {
        match[1]: (match[2], int(match[3].replace(",", "")))
        for match in re.finditer(row, lines[0])
    }


@pytest.mark.parametrize(
    "arguments", [{}, {"num_classes": 3, "classifier_weight": 0.1}]
)
def test_a_summary_has_each_parameter_once_and_true_shapes(
    arguments, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "160")
    model = keras_glow.Glow((8, 8, 1), levels=2, depth=1, width=4, **arguments)
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    found = rows(model)
    assert sum(count for _, count in found.values()) == model.count_params()
    found.pop("classifier", None)
    assert {name: shape for name, (shape, _) in found.items()} == {
        "squeeze_1": "None, 4, 4, 4",
        "step_1_1": "None, 4, 4, 4",
        "split_1": "None, 4, 4, 2), (None, 4, 4, 2",
        "squeeze_2": "None, 2, 2, 8",
        "step_2_1": "None, 2, 2, 8",
        "prior": "None, 2, 2, 8",
    }
    encoder, decoder = rows(model.encoder), rows(model.decoder)
    assert encoder["squeeze_1"][0] == "None, 4, 4, 4), (None"
    assert encoder["prior"][0] == "None, 2, 2, 8), (None"
    assert decoder["squeeze_1"][0] == "None, 8, 8, 1"
    assert decoder["split_1"][0] == "None, 4, 4, 4"
    # Nothing is left hidden.
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]


def test_plots_have_a_box_for_each_layer(model):
    pytest.importorskip("pydot")
    for part in (model.encoder, model.decoder):
        text = keras.utils.model_to_dot(part, show_shapes=True).to_string()
        for layer in part.layers:
            assert text.count(f"<b>{layer.name}</b>") == 1


VALUES = {
    "metrics": ["accuracy"],
    "weighted_metrics": ["mse"],
    "loss_weights": [1.0],
    "class_weight": {0: 1.0, 1: 5.0},
    "sample_weight": np.ones(24),
    "mode": "int8",
    "config": keras.quantizers.Int8QuantizationConfig(),
    "filters": "step",
}


@pytest.mark.parametrize(
    "method, name",
    [(m, n) for m in USED for n in parameters(m) if not used(m, n)],
)
def test_arguments_without_meaning_are_refused(model, method, name):
    first = "adam" if method == "compile" else IMAGES
    with pytest.raises(ValueError, match=f"`{name}` is expected") as error:
        getattr(model, method)(first, **{name: VALUES[name]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda model: model.quantize("int8"), "`mode` is expected"),
        (lambda model: model.compile(None), "`optimizer` is expected"),
        (lambda model: new_model().evaluate(IMAGES), "^`compile..` is exp"),
        (lambda model: new_model(trainable=False), "argument 'trainable'"),
        (lambda model: new_model(autocast=False), "argument 'autocast'"),
        (lambda model: model.fit(IMAGES, workers=2), "argument 'workers'"),
        (lambda model: model.save("a.keras", zipped=False), "filepath=a.keras"),
        (lambda model: model.save("a.h5"), "ends in .keras"),
        (lambda model: model.save("a.hdf5"), "ends in .keras"),
        (lambda model: model.fit(IMAGES, callbacks="History"), "`callbacks`"),
        (lambda model: model.fit(IMAGES, callbacks=[1]), "`callbacks`"),
    ],
)
def test_what_means_nothing_is_said_in_one_line(model, call, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        call(model)
    assert "\n" not in str(error.value)


class WithWeights(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return IMAGES[:8], None, np.ones(8)


def test_weights_in_a_dataset_are_refused(model):
    with pytest.raises(ValueError, match="`sample_weight` is") as error:
        model.evaluate(WithWeights(), verbose=0)
    assert "\n" not in str(error.value)


def test_arguments_of_fit_do_what_they_do_in_keras(model):
    batches = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batches.append(batch),
        on_test_batch_end=lambda batch, logs: batches.append("test"),
    )
    history = model.fit(
        IMAGES,
        batch_size=8,
        epochs=3,
        verbose=0,
        callbacks=[watch],
        validation_data=IMAGES[:8],
        initial_epoch=1,
        validation_freq=2,
        validation_batch_size=2,
        validation_steps=3,
    )
    assert batches == [0, 1, 2, "test", "test", "test", 0, 1, 2]
    assert len(history.history["val_loss"]) == 1


def test_run_eagerly_is_no_contradiction(recwarn):
    model = new_model()
    model.compile("sgd", run_eagerly=True)
    assert model.run_eagerly and not model.jit_compile
    assert not [w for w in recwarn if "jit_compile" in str(w.message)]


def test_a_loss_scale_can_be_declined():
    model = new_model(network_dtype="float16")
    kinds = []
    for auto_scale_loss in (True, False):
        model.compile("adam", auto_scale_loss=auto_scale_loss)
        kinds.append(type(model.optimizer).__name__)
    assert kinds == ["LossScaleOptimizer", "GuardedOptimizer"]


def test_answers_are_the_same_each_time(model):
    for run in (
        lambda: model.predict(IMAGES, verbose=0),
        lambda: model.predict_on_batch(IMAGES),
        lambda: model.test_on_batch(IMAGES),
        lambda: model.evaluate(IMAGES, verbose=0),
    ):
        assert_array_equal(run(), run())
    assert_allclose(
        model.test_on_batch(IMAGES), model.evaluate(IMAGES, verbose=0), 1e-6
    )


def train_on_batches(model):
    before = float(model.train_on_batch(IMAGES)[0])
    for _ in range(3):
        after = float(model.train_on_batch(IMAGES)[0])
    assert after < before


def train_by_hand(model):
    """What any loop of one's own does: weights leave their start."""
    for layer in model.bijections:
        for weight in layer.trainable_weights:
            weight.assign(weight + 0.01)


@pytest.mark.parametrize("train", [train_on_batches, train_by_hand])
def test_fit_keeps_what_another_loop_has_learned(train):
    model = new_model()
    model.compile(keras.optimizers.Adam(1e-2))
    train(model)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(IMAGES, verbose=0)
    for one, two in zip(before, model.get_weights(), strict=True):
        assert_array_equal(one, two)


def moves(model, layer):
    before = layer.get_weights()
    model.fit(IMAGES, verbose=0)
    after = layer.get_weights()
    return any(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_layers_are_frozen_and_unfrozen_by_compile():
    model = new_model()
    layer = model.bijections[1]
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(IMAGES, verbose=0)
    for trainable in (False, True):
        layer.trainable = trainable
        for train in (model.fit, model.train_on_batch):
            with pytest.raises(ValueError, match="`compile` is expected"):
                train(IMAGES)
        model.compile(keras.optimizers.Adam(1e-2))
        assert moves(model, layer) == trainable
    freeze = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: setattr(layer, "trainable", False)
    )
    with pytest.raises(ValueError, match="`compile` is expected"):
        model.fit(IMAGES, epochs=2, verbose=0, callbacks=[freeze])
    model.trainable = False
    model.compile("adam")
    model.evaluate(IMAGES, verbose=0)
    with pytest.raises(ValueError, match="`trainable` is expected"):
        model.fit(IMAGES, verbose=0)


@pytest.mark.parametrize("whole", ["model", "encoder", "step"])
def test_all_is_trained_again_though_only_a_part_was_frozen(whole):
    model = new_model()
    step, count = model.bijections[1], len(model.trainable_weights)
    whole = {"model": model, "encoder": model.encoder, "step": step}[whole]
    for part in (step.actnorm, step.coupling.network, step.coupling):
        part.trainable = False
        assert len(model.trainable_weights) < count
        whole.trainable = True
        assert len(model.trainable_weights) == count


def test_files_keep_what_is_frozen(tmp_path):
    model = new_model()
    step = model.bijections[1]
    step.coupling.network.trainable = False
    model.bijections[-1].trainable = False
    assert "prior" in model.frozen
    assert f"{step.name}/coupling/network" in model.frozen
    assert step.name not in model.frozen
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(IMAGES, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    compiled = keras.saving.load_model(path)
    assert not moves(compiled, compiled.bijections[-1])
    for loaded in (compiled, keras_glow.load_model(path)):
        assert loaded.frozen == model.frozen
    for names in (["step_9_9"], "prior", [1]):
        with pytest.raises(ValueError, match="`frozen` is expected to be"):
            keras_glow.Glow((4, 4, 1), 1, 1, 4, frozen=names)


def test_weights_bring_the_state_of_the_optimizer(model, tmp_path):
    model.save_weights(tmp_path / "a.weights.h5")
    other = new_model()
    other.compile(keras.optimizers.Adam(1e-2))
    other.load_weights(tmp_path / "a.weights.h5")
    steps = int(model.optimizer.iterations)
    assert int(other.optimizer.iterations) == steps > 0


def test_an_optimizer_is_used_again():
    optimizer = keras.optimizers.Adam(1e-2)
    model, other = new_model(), new_model()
    for again in range(3):
        model.compile(model.optimizer if again == 2 else optimizer)
        model.fit(IMAGES, verbose=0)
    assert int(model.optimizer.iterations) == 3
    for taken in (optimizer, model.optimizer):
        other.compile(taken)
        with pytest.raises(ValueError, match="for another model"):
            other.fit(IMAGES, verbose=0)
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(other.trainable_variables)
    other.compile(optimizer)
    assert moves(other, other.bijections[1])


@keras.saving.register_keras_serializable("tests")
class Doubled(keras_glow.Glow):
    """A subclass with an argument, a loss and steps of its own."""

    def __init__(self, *args, factor=2, **kwargs):
        super().__init__(*args, **kwargs)
        self.factor = factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

    def call(self, inputs, training=None):
        return super().call(inputs, training=training)

    def compute_loss(self, *args, **kwargs):
        return self.factor * super().compute_loss(*args, **kwargs)

    def train_step(self, *args):
        return super().train_step(*args)


def through_a_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize("kind", [keras_glow.Glow, Doubled])
def test_copies_are_the_same_and_are_trained_further(kind, tmp_path):
    model = kind((4, 4, 3), levels=1, depth=1, width=4)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(IMAGES, verbose=0)
    expected = model.log_prob(IMAGES, seed=0)
    for copied in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        through_a_file(model, tmp_path),
    ):
        assert type(copied) is kind
        assert_allclose(copied.log_prob(IMAGES, seed=0), expected, rtol=1e-6)
        assert int(copied.optimizer.iterations) == 1
    copied.fit(IMAGES, verbose=0)
    copied = kind.from_config(model.get_config())
    copied.set_weights(model.get_weights())
    assert_allclose(copied.log_prob(IMAGES, seed=0), expected, rtol=1e-6)
