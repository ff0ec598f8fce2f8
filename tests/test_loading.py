"""The strict loader: own files load, everything else is refused by name."""

import hashlib
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_array_equal

import keras_glow
from keras_glow import ModelFileError, load_model

PATH = "bijections/flow_step"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loading")


def make(folder, permutation):
    model = keras_glow.Glow(
        (4, 4, 1), levels=1, depth=2, width=4, permutation=permutation
    )
    model.compile(keras.optimizers.Adam(1e-3, use_ema=True))
    model.fit(random_images(64, (4, 4, 1)), verbose=0)
    model.save(folder / f"{permutation}.keras")
    return model


@pytest.fixture(scope="module")
def model(folder):
    return make(folder, "invertible_conv")


@pytest.fixture(scope="module")
def content(folder, model):
    return (folder / "invertible_conv.keras").read_bytes()


@pytest.fixture(scope="module")
def shuffled(folder):
    make(folder, "shuffle")
    return (folder / "shuffle.keras").read_bytes()


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_config(content, **changes):
    files = members(content)
    document = json.loads(files["config.json"])
    document["config"].update(changes)
    return pack({**files, "config.json": json.dumps(document)})


def with_weights(content, change):
    files = members(content)
    buffer = io.BytesIO(files["model.weights.h5"])
    with h5py.File(buffer, "r+") as file:
        change(file)
    return pack({**files, "model.weights.h5": buffer.getvalue()})


def replace(name, value):
    """Puts another dataset in the place of one."""

    def change(file):
        del file[name]
        if value is not None:
            file[name] = value

    return change


def fill(name, value):
    def change(file):
        file[name][...] = value

    return change


def refused(tmp_path, content, reason):
    path = tmp_path / "hostile.keras"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=reason) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hostile.keras"]


def test_it_loads_what_was_saved(folder, model, content):
    path = folder / "invertible_conv.keras"
    loaded = load_model(path, sha256=hashlib.sha256(content).hexdigest())
    images = random_images(5, (4, 4, 1), seed=1)
    assert_array_equal(
        loaded.log_prob(images, seed=0), model.log_prob(images, seed=0)
    )
    assert_array_equal(loaded.sample(5, seed=0), model.sample(5, seed=0))
    with pytest.raises(ModelFileError, match="sha256"):
        load_model(path, sha256="0" * 64)
    with pytest.raises(FileNotFoundError, match="absent.keras"):
        load_model(folder / "absent.keras")


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"depth": 10**9}, "depth=1000000000 is over"),
        ({"width": 4096, "depth": 256, "levels": 2}, "too many parameters"),
        ({"levels": -1}, "levels"),
        ({"levels": True}, "levels"),
        ({"levels": "2"}, "levels"),
        ({"bits": 99}, "bits"),
        ({"seed": 2**70}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"image_shape": [4, 4, 10**9]}, "image_shape"),
        ({"image_shape": "444"}, "image_shape"),
        ({"image_shape": []}, "image_shape"),
        ({"name": "x" * 10_000}, "name"),
        ({"name": {"class_name": "Lambda"}}, "name"),
        ({"dtype": "int8"}, "dtype"),
        ({"permutation": "os.system"}, "permutation"),
        ({"network_dtype": {"module": "os"}}, "network_dtype"),
        ({"initializer": "x"}, "initializer"),
    ],
)
def test_hostile_arguments(tmp_path, content, changes, reason):
    refused(tmp_path, with_config(content, **changes), reason)


def test_hostile_documents(tmp_path, content):
    files = members(content)
    for document, reason in (
        (b"", "config.json|Expecting"),
        (b"[]", "does not describe"),
        (b'{"registered_name": "Custom>Other", "config": {}}', "describe"),
        (b'{"registered_name": "keras_glow>Glow", "config": {}}', "arguments"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 100_000, "JSON|recursion"),
        (b"\xff\xfe\x00", "JSON|Expecting"),
        (b" " * 2**21, "too large"),
    ):
        refused(tmp_path, pack({**files, "config.json": document}), reason)


def test_hostile_archives(tmp_path, content):
    files = members(content)
    refused(tmp_path, b"", "not a .keras file")
    refused(tmp_path, b"text", "not a .keras file")
    refused(tmp_path, pack({}), "expected to hold")
    refused(tmp_path, pack({**files, "../evil.txt": b"x"}), "evil.txt")
    refused(tmp_path, pack({**files, "assets/x": b"x"}), "assets/x")
    bomb = pack({**files, "metadata.json": b" " * 10**7}, zipfile.ZIP_DEFLATED)
    refused(tmp_path, bomb, "compressed")
    del files["config.json"]
    refused(tmp_path, pack(files), "expected to hold")


@pytest.mark.parametrize(
    "change, reason",
    [
        (replace(f"{PATH}/actnorm/vars/0", None), "and is absent"),
        (replace(f"{PATH}/actnorm/vars/0", np.zeros(9, "f4")), r"\(9,\)"),
        (replace(f"{PATH}/actnorm/vars/0", np.zeros(4, "f8")), "float64"),
        (replace(f"{PATH}/actnorm/vars/0", np.float32(0)), r"\(\)"),
        (replace(f"{PATH}/actnorm/vars/0", "text"), "vars/0"),
        (
            replace(f"{PATH}/actnorm/vars/0", h5py.SoftLink("/vars")),
            "is a link",
        ),
        (
            replace(
                f"{PATH}/actnorm/vars/0", h5py.ExternalLink("/etc/hosts", "/")
            ),
            "is a link",
        ),
        (lambda file: file.create_dataset("more", data=1), "more"),
        (
            lambda file: file.create_dataset("bomb", (2**40,), "f4"),
            "bomb is not stored plainly",
        ),
        (fill(f"{PATH}/actnorm/vars/0", np.nan), "not finite"),
        (fill(f"{PATH}/actnorm/vars/1", np.inf), "not finite"),
        (fill(f"{PATH}/actnorm/vars/0", 50.0), "no ActNorm"),
        (fill(f"{PATH}/actnorm/vars/2", 7), "no ActNorm"),
    ],
)
def test_hostile_weights(tmp_path, content, change, reason):
    refused(tmp_path, with_weights(content, change), reason)


def test_hostile_permutations(tmp_path, content, shuffled):
    conv = f"{PATH}/permutation/vars"
    with h5py.File(io.BytesIO(members(content)["model.weights.h5"])) as file:
        values = {name: file[f"{conv}/{name}"][...] for name in file[conv]}
    matrices = [n for n, v in values.items() if v.ndim == 2]
    signs = [n for n, v in values.items() if np.all(np.abs(v) == 1)]
    (p,) = [n for n in matrices if np.all(values[n].sum(0) == 1)]
    for name, value in ((p, 0.5), (p, 0.0), (signs[0], 0.0)):
        bad = with_weights(content, fill(f"{conv}/{name}", value))
        refused(tmp_path, bad, "no InvertibleConv1x1")
    for value in ([0, 1, 2, 2], [0, 1, 2, 999], [-1, 0, 1, 2]):
        bad = with_weights(shuffled, fill(f"{conv}/0", value))
        refused(tmp_path, bad, "no Shuffle")


@pytest.mark.parametrize(
    "count", [60, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_damage_never_loads_other_weights(tmp_path, content, model, count):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.keras"
    for _ in range(count):
        path.write_bytes(content[: rng.integers(len(content))])
        with pytest.raises(ModelFileError):
            load_model(path)
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            loaded = load_model(path)
        except ModelFileError:
            continue
        for one, two in zip(loaded.weights, model.weights, strict=True):
            assert_array_equal(
                keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two)
            )
