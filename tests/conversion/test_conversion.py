"""Checkpoints of other projects: what their models compute, ours compute."""

import importlib.util
import re
import zipfile

import keras
import numpy as np
import originals
import pytest
import torch_writer
from helpers import data_file, flat, random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import ModelFileError, convert
from keras_glow.cli import main as cli
from keras_glow.conversion import FORMATS, raw_latents
from keras_glow.conversion.checkpoint_files import open_checkpoint

SIZE = (8, 4)
SHAPE = (*SIZE, 3)
LEVELS, DEPTH, WIDTH = 2, 2, 5
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


def make(cls, additive=False, seed=0, fill=(), depth=DEPTH, **attributes):
    """A model of another project with random weights."""
    weights = originals.Weights(seed)
    original = cls(weights, LEVELS, depth, additive)
    for name, value in attributes.items():
        setattr(original, name, value)
    return original.fill(3, WIDTH, *fill)


def save_torch(original, path, legacy=False, prefix="", inside=None):
    values = {prefix + name: v for name, v in original.w.values.items()}
    if inside:
        moments = {
            str(n): {"step": 3, "exp_avg": v}
            for n, v in enumerate(values.values())
        }
        values = {
            "global_step": 2**40,
            inside: values,
            "optim": {
                "state": moments,
                "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}],
            },
            "criterion": {},
        }
    path.write_bytes(torch_writer.torch_bytes(values, legacy))
    return path


def save_npz(original, path):
    np.savez(path, **original.w.values)
    return path


def save_tensorflow(original, path):
    if not HAS_TENSORFLOW:
        return save_npz(original, path.with_suffix(".npz"))
    import tensorflow as tf

    names, values = zip(*original.w.values.items(), strict=True)
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(value) for value in values],
    )
    return path


def rosinality(folder):
    original = make(originals.Rosinality)
    return original, save_torch(original, folder / "model.pt"), SIZE


def rosinality_depths(folder):
    original = make(originals.Rosinality, depth=(3, 1))
    return original, save_torch(original, folder / "model.pt"), SIZE


def rosinality_parallel(folder):
    original = make(originals.Rosinality, additive=True)
    path = folder / "parallel.pt"
    return original, save_torch(original, path, True, "module."), SIZE


def y0ast(folder):
    original = make(originals.Y0ast, fill=[SIZE])
    return original, save_torch(original, folder / "glow.pt"), None


def y0ast_classes(folder):
    original = make(
        originals.Y0ast, True, fill=[SIZE, False], lu=False, classes=3
    )
    return original, save_npz(original, folder / "glow.npz"), None


def chaiyujin(folder):
    original = make(originals.Chaiyujin, fill=[SIZE])
    path = folder / "trained.pkg"
    return original, save_torch(original, path, True, inside="graph"), None


def openai(folder):
    original = make(originals.Openai, classes=2)
    return original, save_tensorflow(original, folder / "best.ckpt"), SIZE


def openai_shuffle(folder):
    original = make(originals.Openai, True, fill=[False], permutation="shuffle")
    return original, save_npz(original, folder / "shuffle.npz"), SIZE


def openai_reverse(folder):
    original = make(originals.Openai, permutation="reverse")
    return original, save_npz(original, folder / "reverse.npz"), SIZE


KINDS = {
    "rosinality .pt": rosinality,
    "rosinality .pt, a depth for each level": rosinality_depths,
    "rosinality .pt of before PyTorch 1.6, additive": rosinality_parallel,
    "y0ast .pt": y0ast,
    "y0ast .npz, additive, classes": y0ast_classes,
    "chaiyujin .pkg": chaiyujin,
    "openai .ckpt, classes": openai,
    "openai .npz, additive, shuffle": openai_shuffle,
    "openai .npz, reverse": openai_reverse,
}


def first(tensor):
    """Channels first, as in PyTorch."""
    return np.moveaxis(to_numpy(tensor), -1, 1)


def last(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1), "float32")


def error(actual, expected):
    """The largest, relative to the largest value that is expected."""
    return np.abs(to_numpy(actual) - expected).max() / np.abs(expected).max()


def error_of_each(actual, expected):
    """The largest, each relative to its own value."""
    return np.abs(to_numpy(actual) / expected - 1).max()


# One of each project by default; the others take seconds too.
SLOW = [kind for kind in KINDS if "additive" in kind or "reverse" in kind]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else [])
        for kind in KINDS
    ],
)
def test_a_converted_model_computes_the_same(kind, tmp_path, record_property):
    original, path, size = KINDS[kind](tmp_path)
    model = convert(path, size, as_images=False)
    assert model.image_shape == SHAPE
    assert (model.levels, model.width) == (LEVELS, WIDTH)
    assert model.depth == original.depth
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (3, 3, *SIZE))
    labels = None
    if model.num_classes:
        assert model.num_classes == original.classes
        labels = np.array([1, 0, 1], "int32")
    log_prob, raw, standard = original.run(x, labels)

    def join(tensor):
        return tensor if labels is None else [tensor, labels]

    z = model.encoder(join(last(x)))
    flat_standard = flat([last(eps) for eps in standard])
    errors = {
        "log-likelihood": error_of_each(model.scorer(join(last(x))), log_prob),
        "latents": error(z, flat_standard),
        "raw latents": max(
            error(first(actual), expected)
            for actual, expected in zip(
                raw_latents(model, last(x)), raw, strict=True
            )
        ),
        "reconstruction": error(
            first(model.decoder(join(flat_standard.astype("float32")))), x
        ),
    }
    for what, value in errors.items():
        record_property(f"{kind}: {what}, relative error", f"{value:.0e}")
        assert value < 1e-5, what
    assert all(np.isfinite(to_numpy(w)).all() for w in model.weights)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("pt", "float32"),
        pytest.param("npz", "float64", marks=pytest.mark.slow),
    ],
)
def test_the_reference_of_rosinality(suffix, dtype, float64, record_property):
    path = data_file(f"reference_glow_rosinality.{suffix}")
    answers = data_file("reference_glow_rosinality.npz")
    if path is None or answers is None:
        pytest.skip("the reference is not here")
    with np.load(answers) as reference:
        prefix = "" if dtype == "float32" else "f64/"
        answer = {
            name: reference[prefix + name].astype("float64")
            for name in ("log_p", "logdet", "z_0", "z_1", "z_2", "recon")
            + ("sample", "bpd")
        }
        x = reference["x"]
        eps = flat([last(reference[f"eps_{level}"]) for level in range(3)])
    weights = "w/" if suffix == "npz" else None
    model = convert(path, 32, prefix=weights, dtype=dtype)
    x = last(x).astype(dtype)
    log_prob = answer["log_p"] + answer["logdet"]
    raw = raw_latents(model, x)
    z = model.encoder(x)
    errors = {
        "log-likelihood": error_of_each(model.scorer(x), log_prob),
        "reconstruction": error(first(model.decoder(z)), answer["recon"]),
        "sample": error(
            first(model.decoder(eps.astype(dtype))), answer["sample"]
        ),
    }
    for level in range(3):
        errors[f"latents of level {level + 1}"] = error(
            first(raw[level]), answer[f"z_{level}"]
        )
    for what, value in errors.items():
        record_property(
            f"reference .{suffix} in {dtype}: {what}, relative error",
            f"{value:.0e}",
        )
        assert value < (1e-4 if dtype == "float32" else 1e-11), what
    dimensions = model.dimensions
    bits = (dimensions * np.log(256) - log_prob) / (dimensions * np.log(2))
    assert_allclose(bits, answer["bpd"], rtol=1e-6)


def test_images_of_chaiyujin_go_from_0_to_1(tmp_path):
    original, path, _ = chaiyujin(tmp_path)
    model = convert(path)
    images = random_images(3, SHAPE)
    log_prob, _, standard = original.run(first(images) / 255)
    x = model.dequantize(images, seed="center")
    expected = flat([last(eps) for eps in standard])
    assert error(model.encoder(x), expected) < 1e-5
    constant = model.dimensions * np.log(256 / 255)
    assert_allclose(to_numpy(model.scorer(x)), log_prob + constant, rtol=1e-5)
    back = model.decoder(expected.astype("float32"))
    assert_array_equal(model.quantize(back), images)


def test_the_command_line(tmp_path, capsys):
    original, path, _ = rosinality_parallel(tmp_path)
    out = tmp_path / "model.keras"
    command = ["convert", str(path), "--out", str(out)]
    assert cli.main([*command, "--size=8"]) == 0
    printed = capsys.readouterr().out
    assert "levels=2, depth=2, width=5, coupling=additive, bits=8" in printed
    model = keras_glow.load_model(out)
    assert model.border and model.get_config()["scale"] == "sigmoid"
    images = random_images(2, (8, 8, 3))
    x = np.asarray(model.dequantize(images, seed="center"))
    expected, _, _ = original.run(np.moveaxis(x, -1, 1))
    assert_allclose(to_numpy(model.scorer(x)), expected, rtol=1e-5)
    missing = str(tmp_path / "missing.pt")
    for arguments, reason in [
        (command, "`image_size` is expected to be given"),
        ([*command, "--size=6"], "multiples of 2**levels = 4"),
        ([*command, "--size=8", "--format=openai"], "weights of openai"),
        (["convert", missing, f"--out={out}"], "missing.pt does not exist"),
        (["convert", str(path), "--out=x.h5"], "to be a .keras file"),
    ]:
        assert cli.main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line


def test_arguments(tmp_path):
    _, path, _ = y0ast(tmp_path)
    assert convert(str(path), [8, 4], bits=5, format="y0ast").bits == 5
    for arguments, reason in [
        ({"image_size": 8}, r"`image_size` .* \(8, 4\), as in the checkpoint"),
        ({"image_size": (8, 4, 3)}, r"`image_size` .* \(height, width\)"),
        ({"image_size": "8"}, "`image_size`"),
        ({"bits": 9}, "`bits`"),
        ({"format": "glow"}, "`format`"),
        ({"format": "rosinality"}, "the weights of rosinality"),
        ({"prefix": "module."}, "the weights of any of"),
        ({"dtype": "float16"}, "`dtype`"),
        ({"as_images": 1}, "`as_images`"),
    ]:
        with pytest.raises(ValueError, match=reason):
            convert(path, **arguments)


# What is refused


def changed(**changes):
    """A checkpoint of rosinality with some weights replaced, or left out."""
    values = {**make(originals.Rosinality).w.values}
    for name, value in changes.items():
        name = name.replace("__", ".")
        values[name] = value
        if value is None:
            del values[name]
    return torch_writer.torch_bytes(values)


def lying(**lies):
    """A file with one tensor that is not where it says."""
    writer = torch_writer.Writer(False)

    def tensor(key, stored, shape, strides):
        shape = lies.get("shape", shape)
        strides = lies.get("strides", strides)
        return writer.describe(
            *(key, stored, shape, strides),
            *(lies.get("count"), lies.get("offset", 0)),
        )

    return torch_writer.torch_bytes(
        {"blocks.0.flows.0.actnorm.loc": np.zeros((1, 4, 1, 1), "float32")},
        tensor=tensor,
    )


def program(*parts):
    """A file whose pickle does something else."""
    content = torch_writer.pickled(b"".join(parts))
    return torch_writer.torch_bytes({}, program=content)


def without_byte_order():
    return torch_writer.zipped(
        {"a/data.pkl": torch_writer.pickled(b"N"), "a/byteorder": b"big"}
    )


W = torch_writer
LOC = "blocks__0__flows__0__actnorm__loc"
CALL = W.named("os", "system") + W.sequence(W.text("touch canary")) + b"R"
BAD_FILES = {
    "nothing": (b"", "pickle"),
    "text": (b"hello\n", "pickle|opcode"),
    "os.system": (program(CALL), "names 'os system'"),
    "os.system within": (
        program(b"}", W.text("a"), CALL, b"s"),
        "names 'os system'",
    ),
    "eval": (program(W.named("builtins", "eval")), "names 'builtins eval'"),
    "torch class": (program(W.named("torch.nn", "Module")), "names 'torch.nn"),
    "getattr by protocol 4": (
        program(W.text("os"), W.text("system"), b"\x93"),
        "STACK_GLOBAL",
    ),
    "instance": (program(b"(i__main__\nA\n"), "INST"),
    "object": (program(b"(c__main__\nA\no"), "names '__main__ A'"),
    "extension": (program(b"\x82\x01"), "EXT1"),
    "call of a string": (program(W.text("os"), b")R"), "damaged"),
    "call of a storage": (
        program(W.named("torch", "FloatStorage"), b")R"),
        "damaged",
    ),
    "empty stack": (program(b"R"), "damaged"),
    "no mark": (program(b"t"), "damaged"),
    "unknown memo": (program(b"h\x07"), "damaged"),
    "tensor as a key": (program(b"})Ns"), "no names"),
    "itself": (program(b"}q\x00", W.text("a"), b"h\x00s"), "not hold"),
    "deep": (program(*[b"}" + W.text("a")] * 9, b"N", b"s" * 9), "too deeply"),
    "beyond": (lying(offset=1), "beyond its storage"),
    "huge": (lying(shape=(1, 2**40, 1, 1)), "beyond its storage"),
    "repeated": (
        lying(shape=(1, 2**40, 1, 1), strides=(0, 0, 0, 0)),
        "beyond its storage",
    ),
    "negative": (lying(shape=(1, -4, 1, 1)), "no such shape"),
    "many axes": (lying(shape=(1,) * 64, strides=(1,) * 64), "no such shape"),
    "storage too short": (lying(count=2**40), "bytes long"),
    "no state": (program(b"N"), "does not hold the weights"),
    "other model": (
        W.torch_bytes({"fc.weight": np.zeros((2, 2), "float32")}),
        "does not hold the weights of any of rosinality",
    ),
    "bare array": (W.torch_bytes(np.zeros(2, "float32")), "not hold"),
    "big endian": (without_byte_order(), "big-endian"),
    "compressed": (
        W.zipped({"a/data.pkl": b"N" * 99}, zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "no pickle": (W.zipped({"a/data.txt": b""}), "one data.pkl"),
    "two pickles": (
        W.zipped({"a/data.pkl": b"", "b/data.pkl": b""}),
        "one data.pkl",
    ),
    "missing weight": (
        changed(blocks__0__flows__1__coupling__net__0__bias=None),
        "flows.1.coupling.net.0.bias is missing",
    ),
    "unknown weight": (
        changed(blocks__0__extra=np.zeros(1, "float32")),
        "blocks.0.extra is none of",
    ),
    "wrong shape": (
        changed(**{LOC: np.zeros((1, 16, 1, 1), "float32")}),
        "expected to be of shape",
    ),
    "nan": (
        changed(**{LOC: np.full((1, 12, 1, 1), np.nan, "float32")}),
        "finite",
    ),
    "not invertible": (
        changed(
            blocks__0__flows__0__actnorm__scale=np.zeros((1, 12, 1, 1), "f4")
        ),
        "no inverse",
    ),
    "singular": (
        changed(
            blocks__0__flows__1__invconv__weight=np.ones((12, 12, 1, 1), "f4")
        ),
        "no inverse",
    ),
    "not trained": (
        changed(blocks__0__flows__0__actnorm__initialized=np.array(0, "uint8")),
        "never trained",
    ),
    "no channels": (
        changed(**{LOC: np.zeros((1, 0, 1, 1), "float32")}),
        "4, 8, ... channels",
    ),
    "wide prior": (
        changed(blocks__1__prior__conv__bias=np.full(48, 9, "float32")),
        "log-scales of the last latents",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, reason = BAD_FILES[name]
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=reason) as caught:
        convert(path, SIZE)
    message = str(caught.value)
    assert message.startswith(f"{path} is refused: ") and "\n" not in message
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_refused_or_read(legacy, tmp_path, record_property):
    values = {"a": {"b": np.arange(40, dtype="float32").reshape(5, 8)}}
    values["c"] = np.array(1, "int64")
    content = torch_writer.torch_bytes(values, legacy)
    path = tmp_path / "damaged.pt"
    rng = np.random.default_rng(0)
    files = [content[:stop] for stop in range(0, len(content), 7)]
    for _ in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        files.append(bytes(damaged))
    refused = 0
    for file in files:
        path.write_bytes(file)
        try:
            with open_checkpoint(path) as arrays:
                assert sum(arrays[name].nbytes for name in arrays) < 1e6
        except ModelFileError as refusal:
            refused += 1
            assert re.match(".* is refused: .", str(refusal))
    kind = "before" if legacy else "since"
    record_property(
        f"damaged files of {kind} PyTorch 1.6 that were refused, others read",
        f"{refused} of {len(files)}",
    )
    assert refused > len(files) / 4


def test_npz_files_that_are_refused(tmp_path):
    values = make(originals.Rosinality).w.values
    path = tmp_path / "model.npz"
    loc = FORMATS["rosinality"].first
    for arrays, reason in [
        ({**values, loc: np.array([{}], object)}, "allow_pickle"),
        ({"x": np.zeros(9 * 2**20)}, "bytes grow to"),
        (
            {f"{p}{n}": v for p in ("w/", "pre/") for n, v in values.items()},
            "several models: choose one by `prefix`, 'w/' or 'pre/'",
        ),
    ]:
        np.savez_compressed(path, **arrays)
        with pytest.raises(ModelFileError, match=reason):
            convert(path, SIZE)


@pytest.mark.parametrize("part", ["l", None])
def test_permutations_that_no_file_holds_are_refused(part, tmp_path):
    original = make(originals.Chaiyujin, fill=[SIZE])
    values = original.w.values
    for name in list(values):
        if name.endswith("invconv.weight"):
            matrix = values.pop(name)
            if part:
                values[name.replace("weight", part)] = matrix
    path = save_npz(original, tmp_path / "model.npz")
    reason = "are lost" if part else "is not in the file"
    with pytest.raises(ModelFileError, match=reason):
        convert(path)


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="TensorFlow is not installed")
def test_tensorflow_checkpoints_that_are_cut_off(tmp_path):
    _, path, _ = openai(tmp_path)
    (data,) = tmp_path.glob("*.data-*")
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match="bytes hold no"):
        convert(f"{path}.index", SIZE)
    data.write_bytes(content)
    index = tmp_path / f"{path.name}.index"
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(ModelFileError, match="is refused"):
        convert(path, SIZE)


def test_every_format_has_a_checkpoint():
    assert {kind.split()[0] for kind in KINDS} == set(FORMATS)


@pytest.mark.slow
def test_a_converted_model_trains_on_and_is_saved(tmp_path):
    _, path, size = rosinality(tmp_path)
    model = convert(path, size)
    images = random_images(16, SHAPE)
    before = model.bits_per_dim(images, seed=0).mean()
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(images, epochs=3, batch_size=8, verbose=0)
    after = model.bits_per_dim(images, seed=0)
    assert after.mean() < before
    model.save(tmp_path / "model.keras")
    for load in (keras_glow.load_model, keras.saving.load_model):
        loaded = load(tmp_path / "model.keras")
        assert_array_equal(loaded.bits_per_dim(images, seed=0), after)
