"""Exported models do what the original does, where there is no keras_glow."""

import functools
import importlib.util
import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from helpers import load_experiment, move_weights, random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow.cli import inputs, models
from keras_glow.cli.main import main
from keras_glow.files.atomic import atomic_folder, partial_folder
from keras_glow.files.export import standalone
from keras_glow.flow.prediction import predict

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow exports"
)
LOADERS = load_experiment("export").LOADERS
CLASSES = 3
# What inverts, factors or sorts where a constant should be.
COMPUTED = ("Triangular", "Inver", "Qr", "Lu", "Det", "TopK", "BandPart")


def small_glow(num_classes=None, **arguments):
    arguments = {"levels": 2, "depth": 1, "width": 8, **arguments}
    model = keras_glow.Glow((8, 8, 3), num_classes=num_classes, **arguments)
    move_weights(model, 0.05)
    return model


@pytest.fixture(scope="module")
def model():
    """With classes, so that there are labels."""
    return small_glow(CLASSES)


@pytest.fixture(scope="module")
def expected(model):
    return original(model)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The folder of a format, written once, by the command line."""
    place = tmp_path_factory.mktemp("export")
    model.save(place / "model.keras")
    formats = {
        name: cli_name for cli_name, name in models.EXPORT_FORMATS.items()
    }

    def folder(format):
        out = place / format
        if not out.exists():
            options = [f"--format={formats[format]}", f"--out={out}"]
            assert main(["export", str(place / "model.keras"), *options]) == 0
        return out

    return folder


def original(model):
    """What goes into a model and what comes out of it, for 5 images."""
    images = random_images(5, model.image_shape)
    rng = np.random.default_rng(0)
    given = {}
    if model.num_classes:
        given["labels"] = np.array([0, 1, 2, 0, 1], "int32")
    if model.context_shape:
        context = rng.normal(size=(5, *model.context_shape))
        given["context"] = context.astype("float32")
    noise = rng.normal(size=(5, model.dimensions)).astype("float32")
    z = model.encode(images, **given)
    drawn = {}
    for temperature in (0, 0.7):
        scaled = noise * np.float32(temperature)
        drawn[temperature] = {
            "x": predict(model.decoder, scaled, tuple(given.values()), 32),
            "images": model.decode(scaled, **given),
        }
    return {
        "bits": model.bits,
        "images": images,
        "quantized": model.quantize(model.dequantize(images, seed="center")),
        "given": given,
        "z": z,
        "log_prob": model.log_prob(images, seed="center", **given),
        "noise": noise,
        "drawn": drawn,
    }


def check_equal(expected, encoder, decoder):
    """Compares exported functions with the original, for two batch sizes."""
    for count in (5, 2):
        more = {k: array[:count] for k, array in expected["given"].items()}
        encoded = encoder(images=expected["images"][:count], **more)
        assert_allclose(encoded["z"], expected["z"][:count], atol=1e-4)
        log_prob = expected["log_prob"][:count]
        assert_allclose(encoded["log_prob"], log_prob, rtol=1e-6, atol=1e-4)
        one = np.array(1, "float32")
        back = decoder(z=encoded["z"], temperature=one, **more)["images"]
        assert back.dtype == "uint8"
        assert_array_equal(back, expected["quantized"][:count])
        for temperature, drawn in expected["drawn"].items():
            temperature = np.array(temperature, "float32")
            noise = expected["noise"][:count]
            actual = decoder(z=noise, temperature=temperature, **more)
            x = drawn["x"][:count]
            assert_allclose(actual["x"], x, atol=1e-4)
            # Beside the edge of a bin, rounding may take a value across it.
            inside = np.abs((x + 0.5) * 2 ** expected["bits"] % 1 - 0.5) < 0.4
            assert np.mean(inside) > 0.7
            images = drawn["images"][:count]
            assert_array_equal(actual["images"][inside], images[inside])


VARIANTS = [
    {"permutation": "shuffle", "coupling": "additive", "bits": 5},
    {"permutation": "reverse", "num_classes": CLASSES, "border": True},
    {"levels": 1, "depth": 2, "memory": "reversible"},
    {"levels": 3},
    {"context_shape": (3, 4, 2), "num_classes": CLASSES},
    {"class_couplings": True, "num_classes": CLASSES},
]


@pytest.mark.parametrize(
    "arguments",
    [
        VARIANTS[0],
        *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[1:]),
    ],
)
def test_standalone_equals_the_original(arguments):
    model = small_glow(**arguments)
    functions = [
        lambda part=part, **inputs: {
            name: to_numpy(tensor) for name, tensor in part(inputs).items()
        }
        for part in standalone(model)
    ]
    check_equal(original(model), *functions)


def check_format(format, expected, folder):
    functions = [LOADERS[format](folder, n) for n in ("encoder", "decoder")]
    check_equal(expected, *functions)
    signature = json.loads((folder / "signature.json").read_text())
    for name in ("encoder", "decoder"):
        assert (folder / signature[name]["file"]).exists()


def need_packages(format):
    if format == "onnx":
        for package in ("tf2onnx", "onnx", "onnxruntime"):
            pytest.importorskip(package)


@on_tensorflow
@pytest.mark.parametrize("format", ["tf_saved_model", "litert"])
def test_exported_equals_the_original(format, expected, exported):
    check_format(format, expected, exported(format))


@on_tensorflow
@pytest.mark.slow
def test_exported_to_onnx_equals_the_original(expected, exported):
    need_packages("onnx")
    import onnx

    folder = exported("onnx")
    check_format("onnx", expected, folder)
    for name in ("encoder", "decoder"):
        graph = onnx.load(folder / f"{name}.onnx").graph
        found = {node.op_type for node in graph.node}
        assert "MatMul" in found
        assert not computed(found)


@on_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("format", LOADERS)
@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_kind_in_every_format(format, arguments, tmp_path):
    need_packages(format)
    model = small_glow(**arguments)
    model.export(tmp_path / "new" / "out", format, verbose=False)
    check_format(format, original(model), tmp_path / "new" / "out")


def operations(graph):
    """The kinds of operations in a GraphDef and in its functions."""
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    return {node.op for node in nodes}


def computed(names):
    return [n for n in names if any(part in n for part in COMPUTED)]


@on_tensorflow
def test_inverses_are_constants(model, exported):
    import tensorflow as tf
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    for name in ("encoder", "decoder"):
        file = exported("tf_saved_model") / name / "saved_model.pb"
        saved = SavedModel.FromString(file.read_bytes())
        found = operations(saved.meta_graphs[0].graph_def)
        assert "MatMul" in found
        assert not computed(found)
        # What the graph would not hold itself: ONNX makes an input of it.
        graph = tf.saved_model.load(str(file.parent))
        graph = graph.signatures["serving_default"]
        assert not graph.captured_inputs
        # Operations that LiteRT has not are named Flex, and need TensorFlow.
        file = exported("litert") / f"{name}.tflite"
        assert b"Flex" not in file.read_bytes()
    # The original computes them, so the search can find them.
    z = tf.zeros((1, model.dimensions))
    labels = tf.zeros((1,), "int32")
    decode = tf.function(lambda z, labels: model.decoder([z, labels]))
    graph = decode.get_concrete_function(z, labels).graph.as_graph_def()
    assert computed(operations(graph))


WITHOUT_PACKAGE = """
    import sys
    sys.modules["keras_glow"] = sys.modules["keras"] = None  # not importable
    import numpy as np
    import tensorflow as tf
    folder, data = sys.argv[1:]
    data = np.load(data)
    encoder, decoder = (
        tf.saved_model.load(f"{folder}/{name}").signatures["serving_default"]
        for name in ("encoder", "decoder")
    )
    labels = tf.constant(data["labels"])
    encoded = encoder(images=tf.constant(data["images"]), labels=labels)
    decoded = decoder(
        z=encoded["z"], temperature=tf.constant(1.0), labels=labels
    )
    assert np.abs(encoded["z"] - data["z"]).max() < 1e-4
    assert np.array_equal(decoded["images"], data["images"])
    print("equal")
"""


@on_tensorflow
def test_loads_where_the_package_is_not(expected, exported, tmp_path):
    data = {name: expected[name] for name in ("images", "z")}
    np.savez(tmp_path / "data.npz", **data, **expected["given"])
    done = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(WITHOUT_PACKAGE)),
            *(exported("tf_saved_model"), tmp_path / "data.npz"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "equal", done.stderr


def test_standalone_leaves_the_model_alone(model):
    before = [to_numpy(weight) for weight in model.weights]
    nodes = [len(layer._inbound_nodes) for layer in model.bijections]
    encoder, decoder = standalone(model)
    assert not encoder.weights and not decoder.weights
    assert nodes == [len(layer._inbound_nodes) for layer in model.bijections]
    for weight, value in zip(model.weights, before, strict=True):
        assert_array_equal(to_numpy(weight), value)


@on_tensorflow
def test_nothing_is_left_where_it_fails(model, tmp_path, monkeypatch):
    def fail(self, path, *args, **kwargs):
        with open(path, "w") as file:
            file.write("half")
        raise RuntimeError("out of luck")

    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(RuntimeError, match="out of luck"):
        model.export(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out"
    # What a killed process leaves is not taken for the folder, nor kept.
    partial = partial_folder(path) / path.name
    partial.mkdir(parents=True)
    (partial / "old").write_text("half")
    with atomic_folder(path) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "file").write_text("whole")
        assert not path.exists()
    assert [f.name for f in path.rglob("*")] == ["inside", "file"]
    assert [f.name for f in path.parent.iterdir()] == ["out"]
    with pytest.raises(FileExistsError, match="out exists already"):
        with atomic_folder(path):
            pass
    assert (path / "inside" / "file").read_text() == "whole"


def test_what_cannot_be_exported_is_told(model, tmp_path, monkeypatch):
    path = tmp_path / "out"
    with pytest.raises(ValueError, match="`format` is expected.*'pickle'"):
        model.export(path, "pickle")
    with pytest.raises(ValueError, match="^`verbose` is expected to be .*$"):
        model.export(path, verbose="no")
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "numpy")
        with pytest.raises(ValueError, match="TensorFlow backend.*numpy"):
            model.export(path)
    assert not list(tmp_path.iterdir())


@on_tensorflow
def test_what_export_lacks_is_told(model, tmp_path, monkeypatch):
    path = tmp_path / "out"
    with pytest.raises(ValueError, match="float32.*'float64'"):
        small_glow(dtype="float64").export(path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tf2onnx onnx"):
        model.export(path, "onnx")
    assert not list(tmp_path.iterdir())


def test_command_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # Loading and exporting take long, and are tested above.
    model.save("model.keras")
    monkeypatch.setattr(
        inputs, "load_model", functools.cache(inputs.load_model)
    )

    def export(model, path, format):
        with atomic_folder(path) as folder:
            (folder / format).write_text("")

    monkeypatch.setattr(keras_glow.Glow, "export", export)
    assert main(["export", "model.keras", "--out=a/b"]) == 0
    assert main(["export", "model.keras", "--out=c", "--format=litert"]) == 0
    assert capsys.readouterr().out.split() == ["a/b", "c"]
    assert (tmp_path / "a" / "b" / "tf_saved_model").is_file()
    assert (tmp_path / "c" / "litert").is_file()
    (tmp_path / "file").write_text("mine")
    for arguments, code, names in (
        (["model.keras", "--out=c"], 1, "c exists already"),
        (["model.keras", "--out=file"], 1, "file exists already"),
        (["model.keras", "--out=file/new"], 1, "file/new cannot be written"),
        (["absent.keras", "--out=new"], 1, "absent.keras does not exist"),
        (["file", "--out=new"], 1, "file is expected to be a .keras file"),
        (["model.keras"], 2, "--out"),
        (["model.keras", "--out=new", "--format=pickle"], 2, "pickle"),
        (["--out=new"], 2, "MODEL"),
    ):
        try:
            actual = main(["export", *arguments])
        except SystemExit as exit:
            actual = exit.code
        error = capsys.readouterr().err.strip()
        assert actual == code
        assert names in error and "\n" not in error
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "new").exists()
