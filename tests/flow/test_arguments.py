"""Arguments that will not do: what is said, and that nothing is lost.

The tables are read as: this callable, given this for this argument, says so.
"""

import decimal
import functools
import pathlib
import re
import time
import tracemalloc
import types

import hypothesis
import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import keras_glow
from keras_glow import Glow, callbacks, data, layers
from keras_glow.checks import Conditions, ImageFormat

SHAPE = (8, 8, 3)
IMAGES = random_images(4, SHAPE)
UNIT = IMAGES / 255
LABELS = np.array([0, 1, 2, 0])
SMALL = {"image_shape": SHAPE, "levels": 2, "depth": 1, "width": 8}
NAN = float("nan")


@pytest.fixture(scope="module")
def models():
    """A trained model, and one with three classes; tests leave them alone."""
    plain, classes = Glow(**SMALL), Glow(**SMALL, num_classes=3)
    plain.compile(run_eagerly=True)  # compiling takes longest here
    classes.compile()
    for model in (plain, classes):
        model.optimizer.build(model.trainable_variables)
        for part in (model.encoder, model.scorer, model.decoder):
            part.run_eagerly = True
    plain.fit(IMAGES, verbose=0)
    return types.SimpleNamespace(plain=plain, classes=classes)


# Each callable, with arguments that it takes. `classes.` is the model that has
# some, `plain.` (or nothing) the one that has none.
METHODS = {
    "fit": {"x": IMAGES, "verbose": 0},
    "evaluate": {"x": IMAGES, "verbose": 0},
    "encode": {"images": IMAGES},
    "decode": {"z": np.zeros((2, 192))},
    "log_prob": {"images": IMAGES},
    "log_prob_map": {"images": IMAGES},
    "bits_per_dim": {"images": IMAGES},
    "dequantize": {"images": IMAGES},
    "quantize": {"x": UNIT - 0.5},
    "sample": {"count": 1},
    "compile": {},
    "from_preset": {},
    "classes.fit": {"x": IMAGES, "y": LABELS, "verbose": 0},
    "classes.evaluate": {"x": IMAGES, "y": LABELS, "verbose": 0},
    "classes.encode": {"images": IMAGES, "labels": LABELS},
    "classes.decode": {"z": np.zeros((4, 192)), "labels": LABELS},
    "classes.log_prob": {"images": IMAGES, "labels": LABELS},
    "classes.sample": {"count": 4},
}
OTHERS = {
    "Glow": functools.partial(Glow, **SMALL),
    "ActNorm": layers.ActNorm,
    "AdditiveCoupling": layers.AdditiveCoupling,
    "AffineCoupling": layers.AffineCoupling,
    "FlowStep": layers.FlowStep,
    "GaussianPrior": layers.GaussianPrior,
    "InvertibleConv1x1": layers.InvertibleConv1x1,
    "Reverse": layers.Reverse,
    "Shuffle": layers.Shuffle,
    "Split": layers.Split,
    "Squeeze": layers.Squeeze,
    "ImageSequence": functools.partial(data.ImageSequence, images=IMAGES),
    "SampleGrid": functools.partial(callbacks.SampleGrid, directory="unused"),
}


def call(models, name, /, **arguments):
    if name in OTHERS:
        return OTHERS[name](**arguments)
    which, _, method = name.rpartition(".")
    method = getattr(getattr(models, which or "plain"), method)
    return method(**{**METHODS[name], **arguments})


def complaint(models, name, /, **arguments):
    """What is said; every error is a ValueError or TypeError of one line."""
    try:
        call(models, name, **arguments)
    except (ValueError, TypeError) as error:
        return str(error)
    return "nothing"


def state(models):
    """All that a model remembers."""
    return [
        to_numpy(variable).copy()
        for model in (models.plain, models.classes)
        for variable in (*model.weights, *model.optimizer.variables)
    ]


def batches(*batches):
    """A PyDataset."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    return Batches()


def tf_dataset(*tensors):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensors(tensors)


BAD_IMAGES = [
    # what they are, the images, what the message holds beside what is allowed
    ("floats 0..1", UNIT, r"float64.*\(images \* 255\).round\(\).astype"),
    ("floats 0..255", IMAGES.astype("float32"), r"float32.*\.round\(\)"),
    ("floats outside", UNIT * 8 - 4, "from -2"),
    ("nan", UNIT * NAN, "from nan"),
    ("infinite", UNIT + np.inf, "from inf"),
    ("halves", UNIT.astype("float16"), "float16"),
    ("int32 < 0", IMAGES.astype("int32") - 200, "int32.*from -"),
    ("int64 > 255", IMAGES.astype("int64") * 99, r"int64.*to \d{5}"),
    (
        "uint16 > 255",
        IMAGES.astype("uint16") * 257,
        r"uint16.*to \d{5}",
    ),
    ("bool", IMAGES > 100, "bool"),
    ("object", IMAGES.astype(str).astype(object), "object"),
    ("complex", IMAGES * 1j, "complex128"),
    ("text", IMAGES.astype(str), "<U"),
    ("NHW", IMAGES[..., 0], r"\(4, 8, 8\)"),
    ("NCHW", np.moveaxis(IMAGES, 3, 1), r"\(4, 3, 8, 8\)"),
    ("CHW", np.moveaxis(IMAGES[0], 2, 0), r"\(3, 8, 8\)"),
    ("HWC", IMAGES[0], r"\(8, 8, 3\)"),
    ("one channel", IMAGES[..., :1], r"\(4, 8, 8, 1\)"),
    ("four channels", IMAGES[..., [0, 1, 2, 2]], r"\(4, 8, 8, 4\)"),
    ("too small", IMAGES[:, :4, :4], r"\(4, 4, 4, 3\)"),
    ("too large", IMAGES.repeat(2, 1), r"\(4, 16, 8, 3\)"),
    ("odd", IMAGES[:, :7, :7], r"\(4, 7, 7, 3\)"),
    ("five axes", IMAGES[None], r"\(1, 4, 8, 8, 3\)"),
    ("a scalar", 3, r"shape \(\)"),
    ("None", None, "=None"),
    ("a path", "faces.png", "'faces.png'.*load_image"),
    ("a Path", pathlib.Path("faces"), "Path"),
    ("paths", ["a.png", "b.png"], "a.png.*load_image"),
    ("a PIL image", Image.fromarray(IMAGES[0]), r"\(8, 8, 3\)"),
    ("PIL images, grey", [Image.new("L", (8, 8))] * 2, r"\(2, 8, 8\)"),
    ("ragged", [IMAGES[0], IMAGES[0, :4]], "array"),
    ("a dict", {"images": IMAGES}, "images"),
    ("a list of nothing", [], r"\(0,\)"),
]
TAKE_IMAGES = (
    ("fit", "x"),
    ("fit", "validation_data"),
    ("evaluate", "x"),
    ("encode", "images"),
    ("log_prob", "images"),
    ("log_prob_map", "images"),
    ("bits_per_dim", "images"),
    ("dequantize", "images"),
)

SEEDS = "0..4294967295"
BAD = [
    # callable, argument, value, what is allowed
    ("fit", "x", IMAGES[:0], "1 image or more"),
    ("evaluate", "x", IMAGES[:0], "1 image or more"),
    ("fit", "validation_data", IMAGES[:0], "1 image or more"),
    ("fit", "validation_data", (IMAGES[:0], None), "1 image or more"),
    ("fit", "validation_data", (UNIT, None), "integers 0..255"),
    ("fit", "validation_data", (), "images, (images, y) or a dataset"),
    ("fit", "validation_data", (IMAGES, None, LABELS), "(images, y)"),
    ("fit", "batch_size", 0, ">= 1"),
    ("fit", "batch_size", -1, ">= 1"),
    ("fit", "batch_size", 2.0, ">= 1"),
    ("fit", "batch_size", "all", ">= 1"),
    ("fit", "epochs", 0, ">= 1"),
    ("fit", "epochs", 1.5, ">= 1"),
    ("fit", "shuffle", "batch", "True or False"),
    ("fit", "validation_split", 1.0, "below 1"),
    ("fit", "validation_split", -0.1, "below 1"),
    ("fit", "validation_split", "half", "below 1"),
    ("fit", "validation_split", 0.999, "some are on either side"),
    ("evaluate", "batch_size", 0, ">= 1"),
    ("evaluate", "batch_size", True, ">= 1"),
    ("encode", "batch_size", 0, ">= 1"),
    ("decode", "batch_size", 1.5, ">= 1"),
    ("log_prob", "batch_size", None, ">= 1"),
    ("sample", "batch_size", -1, ">= 1"),
    ("encode", "labels", LABELS, "None, for num_classes=None"),
    ("sample", "labels", 1, "None, for num_classes=None"),
    ("classes.encode", "labels", None, "4 integers from 0 to 2"),
    ("classes.encode", "labels", LABELS + 1, "4 integers from 0 to 2"),
    ("classes.encode", "labels", LABELS - 1, "4 integers from 0 to 2"),
    ("classes.encode", "labels", LABELS[:3], "4 integers from 0 to 2"),
    ("classes.encode", "labels", LABELS[:, None], "4 integers from 0 to 2"),
    ("classes.encode", "labels", LABELS * 1.0, "4 integers from 0 to 2"),
    ("classes.encode", "labels", LABELS > 0, "4 integers from 0 to 2"),
    ("classes.encode", "labels", ["a"] * 4, "4 integers from 0 to 2"),
    ("classes.log_prob", "labels", 3, "4 integers from 0 to 2"),
    ("classes.decode", "labels", LABELS[:1], "4 integers from 0 to 2"),
    ("classes.sample", "labels", 3, "4 integers from 0 to 2"),
    ("classes.sample", "labels", 0.5, "4 integers from 0 to 2"),
    ("classes.sample", "labels", LABELS[:2], "4 integers from 0 to 2"),
    ("classes.fit", "y", None, "4 integers from 0 to 2"),
    ("classes.fit", "y", LABELS[:3], "4 integers from 0 to 2"),
    ("classes.fit", "y", LABELS + 1, "4 integers from 0 to 2"),
    ("classes.fit", "validation_data", (IMAGES, LABELS + 1), "from 0 to 2"),
    ("classes.fit", "validation_data", IMAGES, "4 integers from 0 to 2"),
    ("classes.evaluate", "y", LABELS * 0.5, "4 integers from 0 to 2"),
    ("decode", "z", np.zeros((2, 5)), "(batch, 192)"),
    ("decode", "z", np.zeros(192), "(batch, 192)"),
    ("decode", "z", np.full((1, 192), NAN), "finite floats"),
    ("decode", "z", np.full((1, 192), 1e300), "finite floats"),
    ("decode", "z", np.zeros((1, 192), bool), "finite floats"),
    ("decode", "z", "latents", "finite floats"),
    ("decode", "z", None, "finite floats"),
    ("quantize", "x", None, "floats"),
    ("quantize", "x", ["dark"], "floats"),
    ("dequantize", "seed", "centre", 'or "center"'),
    ("dequantize", "seed", -1, SEEDS),
    ("log_prob", "seed", 2**64, SEEDS),
    ("log_prob", "seed", 1.0, SEEDS),
    ("log_prob", "draws", 0, ">= 1"),
    ("log_prob", "draws", 1.5, ">= 1"),
    ("bits_per_dim", "draws", "many", ">= 1"),
    ("sample", "count", -1, "0..89478485"),
    ("sample", "count", 10**9, "16 GiB"),
    ("sample", "count", 2.0, "0..89478485"),
    ("sample", "count", True, "0..89478485"),
    ("sample", "count", None, "0..89478485"),
    ("sample", "count", "4", "0..89478485"),
    ("sample", "seed", -1, SEEDS),
    ("sample", "seed", 2**64, SEEDS),
    ("sample", "seed", 0.5, SEEDS),
    ("sample", "seed", "center", SEEDS),
    ("sample", "seed", [1, 2], SEEDS),
    ("sample", "temperature", -0.1, "2, one per level"),
    ("sample", "temperature", NAN, "2, one per level"),
    ("sample", "temperature", float("inf"), "2, one per level"),
    ("sample", "temperature", "0.7", "2, one per level"),
    ("sample", "temperature", None, "2, one per level"),
    ("sample", "temperature", True, "2, one per level"),
    ("sample", "temperature", 1j, "2, one per level"),
    ("sample", "temperature", [1, 1, 1], "2, one per level"),
    ("sample", "temperature", [1, -1], "2, one per level"),
    ("sample", "temperature", [[1, 1]], "2, one per level"),
    ("sample", "temperature", [1, "1"], "2, one per level"),
    ("compile", "loss", "mse", "StandardNormalNLL"),
    ("compile", "loss", keras.losses.MeanSquaredError(), "StandardNormalNLL"),
    ("compile", "jit_compile", "yes", "(True, False, 'auto')"),
    ("from_preset", "name", "faces", "faces32"),
    ("from_preset", "name", ["faces32"], "faces32"),
    ("Glow", "image_shape", None, "(height, width, channels)"),
    ("Glow", "image_shape", 8, "(height, width, channels)"),
    ("Glow", "image_shape", (8, 8), "(height, width, channels)"),
    ("Glow", "image_shape", (1, 8, 8, 3), "(height, width, channels)"),
    ("Glow", "image_shape", (8, 8, 0), "(height, width, channels)"),
    ("Glow", "image_shape", (8.0, 8.0, 3.0), "(height, width, channels)"),
    ("Glow", "image_shape", (8, 8, True), "(height, width, channels)"),
    ("Glow", "image_shape", "883", "(height, width, channels)"),
    ("Glow", "image_shape", {8, 3}, "(height, width, channels)"),
    ("Glow", "image_shape", (6, 8, 3), "multiples of 2**levels = 4"),
    ("Glow", "image_shape", (2**20, 2**20, 3), "2,147,483,648 parameters"),
    ("Glow", "levels", 0, "1..30"),
    ("Glow", "levels", 10**9, "1..30"),
    ("Glow", "levels", 10**5000, "1..30"),
    ("Glow", "levels", 2.0, "1..30"),
    ("Glow", "depth", 0, "1..1024"),
    ("Glow", "depth", 10**9, "1..1024"),
    ("Glow", "width", -8, ">= 1"),
    ("Glow", "width", 10**9, "2,147,483,648 parameters"),
    ("Glow", "width", "8", ">= 1"),
    ("Glow", "bits", 0, "1..16"),
    ("Glow", "bits", 17, "1..16"),
    ("Glow", "num_classes", 0, ">= 1"),
    ("Glow", "num_classes", 10**9, "2,147,483,648 parameters"),
    ("Glow", "seed", None, "0..2147483647"),
    ("Glow", "seed", 2**31, "0..2147483647"),
    ("Glow", "permutation", "mix", "invertible_conv"),
    ("Glow", "coupling", None, "affine"),
    ("Glow", "memory", "none", "reversible"),
    ("Glow", "scale", ["exp"], "bounded"),
    ("Glow", "border", None, "True or False"),
    ("Glow", "network_dtype", "int8", "bfloat16"),
    ("ActNorm", "epsilon", 0, "> 0"),
    ("ActNorm", "epsilon", NAN, "> 0"),
    ("ActNorm", "epsilon", "small", "> 0"),
    ("AdditiveCoupling", "width", 0, ">= 1"),
    ("AdditiveCoupling", "network", "resnet", "callable"),
    ("AdditiveCoupling", "network_dtype", "half", "bfloat16"),
    ("AffineCoupling", "scale", "tanh", "bounded"),
    ("AffineCoupling", "scale", None, "bounded"),
    ("AffineCoupling", "seed", -1, SEEDS),
    ("FlowStep", "permutation", "mix", "shuffle"),
    ("FlowStep", "coupling", "none", "additive"),
    ("FlowStep", "width", 1.5, ">= 1"),
    ("Glow", "class_priors", "some", "one of"),
    ("Glow", "classifier_weight", -1.0, "a finite number >= 0"),
    ("Glow", "classifier_weight", 0.01, "0, for num_classes=None"),
    ("Glow", "dropout", 0.1, "0, for network='paper'"),
    ("Glow", "dropout", 1.0, "a number from 0 to below 1"),
    ("Glow", "frozen", ["step"], "names of layers, such as step_1_1"),
    ("Glow", "frozen", "prior", "a list of the names of layers"),
    ("Split", "num_classes", 0, ">= 1"),
    ("GaussianPrior", "num_classes", 0, ">= 1"),
    ("GaussianPrior", "num_classes", 2.0, ">= 1"),
    ("InvertibleConv1x1", "lu", "yes", "True or False"),
    ("InvertibleConv1x1", "seed", 2**64, SEEDS),
    ("Shuffle", "seed", "a", SEEDS),
    ("Squeeze", "factor", 0, ">= 1"),
    ("Squeeze", "factor", 2.0, ">= 1"),
    ("ImageSequence", "images", None, "(count, height, width, channels)"),
    ("ImageSequence", "images", IMAGES[0], "(count, height, width, channels)"),
    ("ImageSequence", "images", IMAGES[:0], "one image or more"),
    ("ImageSequence", "labels", LABELS[:3], "one for each of 4 images"),
    ("ImageSequence", "labels", 1, "one for each of 4 images"),
    ("ImageSequence", "batch_size", 0, ">= 1"),
    ("ImageSequence", "flip", "left", "True or False"),
    ("ImageSequence", "seed", None, SEEDS),
    ("ImageSequence", "epoch", -1, ">= 0"),
    ("ImageSequence", "batch", 1, "0..0"),
    ("SampleGrid", "every", 0, ">= 1"),
    ("SampleGrid", "count", 0, ">= 1"),
    ("SampleGrid", "seed", -1, SEEDS),
]

DATASETS = [
    # what is wrong, the batches, what the message holds
    ("nothing", [], "`x`.*no batch"),
    ("empty batches", [(IMAGES[:0], LABELS[:0])], "`x`.*no batch"),
    ("floats", [(UNIT, LABELS)], "`x`.*integers 0..255.*float64"),
    ("another shape", [(IMAGES[:, :4], LABELS)], r"`x`.*\(4, 4, 8, 3\)"),
    ("no batch axis", [(IMAGES[0], LABELS[0])], r"`x`.*\(8, 8, 3\)"),
    ("too large", [(IMAGES.astype("int32") + 200, LABELS)], "`x`.*from 2"),
    ("no labels", [(IMAGES,)], "`y`.*None"),
    ("float labels", [(IMAGES, LABELS / 2)], "`y`.*float64"),
    ("labels of 4 classes", [(IMAGES, LABELS + 1)], "`y`.*from 1 to 3"),
    ("one label", [(IMAGES, LABELS[:1])], r"`y`.*\(1,\)"),
]

ACCEPTED = [
    ("encode", "images", IMAGES.astype("int64")),
    ("encode", "images", IMAGES.astype("uint16")),
    ("encode", "images", IMAGES.tolist()),
    ("encode", "images", keras.ops.convert_to_tensor(IMAGES)),
    ("log_prob", "draws", np.int64(2)),
    ("log_prob", "seed", "center"),
    ("log_prob", "batch_size", 10**9),
    ("decode", "z", np.zeros((0, 192))),
    ("decode", "z", np.zeros((1, 192)).tolist()),
    ("quantize", "x", [0.1, -0.1]),
    ("sample", "count", np.int64(2)),
    ("sample", "seed", np.int32(3)),
    ("sample", "seed", 2**32 - 1),
    ("sample", "temperature", 0),
    ("sample", "temperature", np.float32(0.5)),
    ("sample", "temperature", [0.5, 1]),
    ("classes.sample", "labels", 2),
    ("classes.sample", "labels", np.int64(2)),
    ("classes.encode", "labels", LABELS.astype("uint8")),
    ("fit", "x", IMAGES[:1]),
    ("fit", "validation_split", 0.25),
    ("fit", "batch_size", np.int64(3)),
    ("evaluate", "y", np.zeros(4)),
    ("Glow", "image_shape", [8, 8, 3]),
    ("ImageSequence", "batch_size", np.int64(3)),
    ("ImageSequence", "labels", LABELS.tolist()),
]


LABELLED = ("classes.fit", "classes.evaluate")


def assert_refused(models, cases, record_property, figure):
    """What is said names the argument, in one line; no model has changed.

    Args:
        models: the fixture.
        cases: tuples of a callable's name, its bad arguments, the name of the
            one that is bad, and a pattern of what is said.
        record_property: the fixture.
        figure: what is counted.
    """
    before = state(models)
    wrong = []
    for name, arguments, argument, pattern in cases:
        said = complaint(models, name, **arguments)
        if not (
            re.search(f"`{argument}`.* expected to", said)
            and re.search(pattern, said)
            and "Received: " in said
            and "\n" not in said
            and len(said) < 400
        ):
            wrong.append(f"{name} {argument}: {said}")
    record_property(figure, f"{len(cases) - len(wrong)} of {len(cases)}")
    assert not wrong, "\n".join(wrong)
    for value, after in zip(before, state(models), strict=True):
        assert_array_equal(value, after)


def test_bad_images(models, record_property):
    cases = []
    for _, images, pattern in BAD_IMAGES:
        for name, argument in TAKE_IMAGES:
            value = (images, None) if argument == "validation_data" else images
            words = r"integers 0..255 of shape \(batch, 8, 8, 3\).*" + pattern
            words = words.replace("images", argument)
            cases.append((name, {argument: value}, argument, words))
    assert_refused(models, cases, record_property, "bad images refused")


def test_bad_arguments(models, record_property):
    cases = [
        (name, {argument: value}, argument, re.escape(words))
        for name, argument, value, words in BAD
    ]
    assert_refused(models, cases, record_property, "bad arguments refused")


@pytest.mark.parametrize("wrap", ["generator", "sequence"])
def test_bad_datasets(models, record_property, wrap):
    cases = []
    for _, content, pattern in DATASETS:
        argument = re.search("`(.)`", pattern)[1]
        for name in LABELLED:
            x = batches(*content) if wrap == "sequence" else iter(content)
            cases.append((name, {"x": x, "y": None}, argument, pattern))
    assert_refused(models, cases, record_property, f"bad {wrap}s refused")


def test_bad_tf_datasets(models, record_property):
    cases = []
    for _, content, pattern in DATASETS[2:]:
        if "from" in pattern:
            continue  # values: see the next test
        argument = re.search("`(.)`", pattern)[1]
        x = tf_dataset(*content[0])
        cases += [(n, {"x": x, "y": None}, argument, pattern) for n in LABELLED]
    assert_refused(models, cases, record_property, "bad tf.data sets refused")


def test_the_multiple_of_height_and_width():
    with pytest.raises(ValueError, match="multiples of.*= 8.*12"):
        Glow((8, 12, 3), levels=3)


def test_fit_before_compile():
    with pytest.raises(ValueError, match=r"`compile\(\)` is expected"):
        Glow(**SMALL).fit(IMAGES)


def test_one_argument_too_many(models):
    said = complaint(models, "fit", x=batches((IMAGES,)), y=LABELS)
    assert "`y` is expected to be None beside a dataset" in said
    for name in sorted(OTHERS.keys() - {"SampleGrid"}):
        with pytest.raises((ValueError, TypeError), match="colour"):
            call(models, name, colour=1)


def test_what_is_accepted(models):
    for name, argument, value in ACCEPTED:
        assert complaint(models, name, **{argument: value}) == "nothing", (
            name,
            argument,
            value,
        )
    whole = models.plain.encode(IMAGES)
    for images in (list(IMAGES), [Image.fromarray(i) for i in IMAGES]):
        assert_array_equal(models.plain.encode(images), whole)
    assert_allclose(models.plain.encode(IMAGES[:1])[0], whole[0], atol=1e-6)
    assert models.plain.encode(IMAGES[:0]).shape == (0, 192)
    assert models.plain.log_prob(IMAGES[:0]).shape == (0,)
    assert models.plain.sample(0).shape == (0, *SHAPE)
    model = Glow(np.array([8, 8, 3]), levels=np.int64(1), depth=1, width=8)
    assert type(model.get_config()["levels"]) is int


def test_later_values_of_a_dataset_never_give_a_wrong_number(models):
    # A compiled program refuses no value: its loss is nan.
    good = (IMAGES.astype("int32"), LABELS)
    for bad in (
        (good[0] + 200, LABELS),
        (good[0] - 200, LABELS),
        (good[0], LABELS + 1),
        (good[0], LABELS - 1),
    ):
        before = state(models)
        try:
            loss, _ = models.classes.evaluate(batches(good, bad), verbose=0)
            assert np.isnan(loss)
        except Exception as error:
            # Of a lookup, on TensorFlow and on Torch.
            assert re.search("indices|index out of range", str(error))
        for value, after in zip(before, state(models), strict=True):
            assert_array_equal(value, after)
    loss, _ = models.classes.evaluate(batches(good, good), verbose=0)
    assert np.isfinite(loss)


def test_too_many_samples_cost_nothing(models):
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(ValueError, match="`count`.*0..89478485.*16 GiB"):
        models.plain.sample(10**9)
    assert time.perf_counter() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_samples_do_not_depend_on_the_chunks_they_are_drawn_in(
    models, monkeypatch
):
    whole = models.classes.sample(5, seed=1, batch_size=2)
    monkeypatch.setattr("keras_glow.flow.image_flow.SAMPLES_AT_ONCE", 3)
    assert_array_equal(models.classes.sample(5, seed=1, batch_size=2), whole)
    labels = np.arange(5) % 3
    chunks = models.classes.sample(5, seed=1, labels=labels, batch_size=2)
    monkeypatch.undo()
    whole = models.classes.sample(5, seed=1, labels=labels, batch_size=2)
    assert_array_equal(chunks, whole)


def test_validation_split_is_the_end_of_the_images():
    image_format = ImageFormat(IMAGES.shape[1:], 8)
    classes = Conditions(int(max(LABELS)) + 1)
    parts = data.open_images(IMAGES, LABELS, image_format, classes).split(0.25)
    images, labels = (
        np.concatenate(arrays)
        for arrays in zip(*((p.images, p.targets) for p in parts), strict=True)
    )
    assert_array_equal(images, IMAGES)
    assert_array_equal(labels, LABELS)
    assert len(parts[1].images) == 1
    with pytest.raises(ValueError, match="`validation_split`.*dataset"):
        data.open_images(batches((IMAGES,)), None, image_format).split(0.5)


def test_a_grid_is_refused_before_the_first_epoch(models, tmp_path):
    (tmp_path / "file").write_text("")
    for directory, temperatures, error, words in (
        ("new", [-1], ValueError, "`temperature`.*-1"),
        ("file", [0.7], OSError, "file"),
    ):
        grid = callbacks.SampleGrid(
            tmp_path / directory, temperatures=temperatures
        )
        before = state(models)
        with pytest.raises(error, match=words):
            models.plain.fit(IMAGES, verbose=0, callbacks=[grid])
        for value, after in zip(before, state(models), strict=True):
            assert_array_equal(value, after)
    assert not (tmp_path / "new").exists()


def test_bad_arguments_of_the_loader(tmp_path):
    for path in (None, 5, ["model.keras"]):
        with pytest.raises(TypeError):
            keras_glow.load_model(path)
    with pytest.raises(FileNotFoundError, match="absent.keras"):
        keras_glow.load_model(tmp_path / "absent.keras")
    with pytest.raises(keras_glow.ModelFileError, match=str(tmp_path)):
        keras_glow.load_model(tmp_path)


# Anything at all

# No number that is large and right: it would take long.
INTEGERS = st.integers(max_value=3) | st.integers(min_value=2**40)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.decimals(),
    st.fractions(),
    st.datetimes(),
    st.just(object()),
    st.just(np.ndarray),
    st.just(decimal.Decimal("NaN")),
    st.integers(-3, 3).map(np.int64),
    st.floats(width=32).map(np.float32),
)
ANYTHING = st.one_of(
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.lists(inner, max_size=4).map(iter),
            st.dictionaries(st.text(max_size=2), inner, max_size=2),
        ),
        max_leaves=6,
    ),
    arrays.arrays(
        arrays.scalar_dtypes(),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    ),
)
FUZZED = sorted(
    {(name, argument) for name, argument, _, _ in BAD if name != "compile"}
    | {*TAKE_IMAGES, ("fit", "y"), ("Bijection", "name"), ("Glow", "name")}
)
OTHERS["Bijection"] = layers.Bijection


@pytest.mark.parametrize(
    "examples", [100, pytest.param(2000, marks=pytest.mark.slow)]
)
def test_anything_at_all_is_taken_or_refused(models, record_property, examples):
    tried, others = [], []

    @hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None
    )
    @hypothesis.given(target=st.sampled_from(FUZZED), value=ANYTHING)
    def anything(target, value):
        name, argument = target
        arguments = {argument: value}
        if name.endswith("fit") and argument != "x":
            arguments["x"] = UNIT  # refused last: nothing is to be trained
        try:
            tried.append(complaint(models, name, **arguments) != "nothing")
        except Exception:
            others.append(target)
            raise

    before = state(models)
    try:
        anything()
    finally:
        record_property(
            "arbitrary arguments with another error than ValueError, TypeError",
            f"{len(others)} of {len(tried) + len(others)} "
            f"({sum(tried)} refused)",
        )
    for value, after in zip(before, state(models), strict=True):
        assert_array_equal(value, after)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"levels": 3, "depth": 700}, "at most 2048 steps of flow"),
        ({"levels": 3, "depth": (1024, 1024, 1)}, "at most 2048 steps of flow"),
        ({"levels": 2, "depth": (1, 2, 3)}, "a number for each of 2 levels"),
        ({"levels": 2, "depth": (1, 0)}, "1..1024, or one for each level"),
        ({"levels": 2, "depth": ()}, "1..1024, or one for each level"),
        ({"name": "x" * 101}, "a printable string of at most 100"),
        ({"name": "red\x1b[31m"}, "a printable string of at most 100"),
    ],
)
def test_no_model_is_built_that_the_strict_loader_refuses(arguments, expected):
    shape = 2 ** arguments.get("levels", 1)
    arguments = {"levels": 1, "depth": 1, "width": 2, **arguments}
    with pytest.raises(ValueError, match=expected):
        Glow((shape, shape, 1), **arguments)
