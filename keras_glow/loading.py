"""The strict loader: a `.keras` file of anybody's, trusted with nothing.

`keras.saving.load_model` builds whatever classes a file names. Here a file may
only fill in the arguments of `Glow`, plain values that `Glow` checks, and the
values of weights whose names, shapes and types the model knows beforehand.
"""

import hashlib
import inspect
import io
import json
import math
import pathlib
import tempfile
import zipfile

import h5py
import numpy as np
from keras import ops

from keras_glow.checks import check_arguments
from keras_glow.glow import Glow
from keras_glow.layers import ActNorm, InvertibleConv1x1, Shuffle

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
OPTIONAL_MEMBER = "run.json"  # of a checkpoint; not looked at
MAX_CONFIG_BYTES = 2**20
MAX_FILE_BYTES = 2**32
MAX_PARAMETERS = 2**31
# The highest value of each size that a file may ask for.
LIMITS = {"levels": 10, "depth": 256, "width": 4096, "num_classes": 100_000}
MAX_IMAGE_SIDE = 4096
MAX_LOG_SCALE = 20.0


class ModelFileError(ValueError):
    """A model file that is not what it should be: names it and the reason."""


def load_model(path, sha256=None):
    """Loads a `Glow` from a `.keras` file, and refuses everything else.

    Unlike `keras.saving.load_model` it never builds another class, runs no code
    that the file names, and leaves the optimiser out: what comes back is not
    compiled.

    Args:
        path: a file that `Glow.save` wrote.
        sha256: hexadecimal digest that the file must have, or None.

    Returns:
        A `Glow` with the file's weights.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
        FileNotFoundError: if there is none.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is no file, or one of over 4 GiB")
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if sha256 is not None and digest != sha256.lower():
            raise ValueError(f"its sha256 is {digest}, not {sha256}")
        config, weights = _read_members(content)
        model = _build(config)
        _check_structure(model, weights)
        _assign(model, weights)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(f"{path} is refused: {lines[0]}") from error
    return model


def _read_members(content):
    """The configuration and the weights file, as bytes."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is not a .keras file, or is cut off")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if {*names} - {OPTIONAL_MEMBER} != MEMBERS or (
                len(names) != len({*names})
            ):
                raise ValueError(
                    f"it is expected to hold {sorted(MEMBERS)}, and holds "
                    f"{sorted(names)[:5]}"
                )
            for member in members:
                # Keras compresses nothing: what grows is a bomb.
                if member.file_size > member.compress_size * 1.1 + 1024:
                    raise ValueError(f"{member.filename} is compressed")
                if member.flag_bits & 1:
                    raise ValueError(f"{member.filename} is encrypted")
            if archive.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
                raise ValueError("config.json is too large")
            # Reading a member compares its checksum.
            read = {name: archive.read(name) for name in MEMBERS}
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ValueError(f"it is damaged: {error}") from None
    return read["config.json"], read["model.weights.h5"]


def _build(content):
    """A `Glow` of the arguments in `config.json`, each of them checked."""

    def refuse(name):
        raise ValueError(f"config.json holds {name}")

    try:
        document = json.loads(content, parse_constant=refuse)
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"config.json is no JSON: {error}") from None
    if (
        not isinstance(document, dict)
        or document.get("registered_name") != "keras_glow>Glow"
        or not isinstance(document.get("config"), dict)
    ):
        raise ValueError("config.json does not describe a keras_glow>Glow")
    config = document["config"]
    known = {*inspect.signature(Glow).parameters, "name", "dtype"} - {"kwargs"}
    if set(config) != known:
        odd = sorted(set(config) ^ known)
        raise ValueError(f"its arguments differ from those of Glow by {odd}")
    for name, limit in LIMITS.items():
        value = config[name]
        if isinstance(value, int) and value > limit:
            raise ValueError(f"{name}={value} is over {limit}")
    shape = config["image_shape"]
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(type(size) is int for size in shape)
        or max(shape) > MAX_IMAGE_SIDE
    ):
        raise ValueError(f"image_shape is {str(shape)[:80]}")
    for name in ("name", "dtype", "permutation", "coupling", "memory", "scale"):
        if not isinstance(config[name], str) or len(config[name]) > 100:
            raise ValueError(f"{name} is no short string")
    check_arguments(
        *(
            config[name]
            for name in inspect.signature(check_arguments).parameters
        )
    )
    if config["dtype"] not in ("float32", "float64"):
        raise ValueError(f"dtype is {config['dtype']}")
    if _parameters(config) > MAX_PARAMETERS:
        raise ValueError("it asks for too many parameters")
    return Glow.from_config(config)


def _parameters(config):
    """About how many parameters a configuration asks for."""
    *_, channels = config["image_shape"]
    total = 0
    for level in range(config["levels"]):
        channels *= 4
        width = config["width"]
        network = width * (9 * channels // 2 + width + 9 * channels)
        total += config["depth"] * (network + 3 * channels**2)
        channels -= channels // 2 * (level + 1 < config["levels"])
    top = math.prod(config["image_shape"]) * 2
    return total + top * (config["num_classes"] or 1)


def _check_structure(model, content):
    """Refuses weights that are not named, shaped and typed like the model's."""
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder) / "own.weights.h5"
        model.save_weights(own)
        expected = _datasets(own.read_bytes())
    actual = _datasets(content)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ValueError(
                f"weight {name[:200]} is expected to be "
                f"{expected.get(name, 'absent')}, and is "
                f"{actual.get(name, 'absent')}"
            )


def _datasets(content):
    """Shape and dtype of every dataset outside the optimiser; reads none."""
    found = {}

    def visit(group, prefix):
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{prefix}{name} is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                if len(prefix) > 500:
                    raise ValueError("its groups are nested too deeply")
                if prefix + name != "optimizer":
                    visit(item, f"{prefix}{name}/")
                continue
            if (
                item.external
                or item.is_virtual
                or item.id.get_create_plist().get_nfilters()
                or item.id.get_storage_size() != item.size * item.dtype.itemsize
            ):
                raise ValueError(f"{prefix}{name} is not stored plainly")
            found[prefix + name] = (item.shape, str(item.dtype))

    with h5py.File(io.BytesIO(content), "r") as file:
        visit(file, "")
    return found


def _assign(model, content):
    """Fills a model that nobody holds yet, then checks the values."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "model.weights.h5"
        file.write_bytes(content)
        model.load_weights(file)
    for weight in model.weights:
        if not np.isfinite(ops.convert_to_numpy(weight)).all():
            raise ValueError(f"weight {weight.path} is not finite")
    for layer in model._flatten_layers():
        if isinstance(layer, Shuffle):
            order = ops.convert_to_numpy(layer.permutation)
            _require(
                layer, np.array_equal(np.sort(order), np.arange(len(order)))
            )
        elif isinstance(layer, ActNorm):
            _require(layer, ops.convert_to_numpy(layer.initialized) in (0, 1))
            _require(layer, _largest(layer.log_scale) <= MAX_LOG_SCALE)
        elif isinstance(layer, InvertibleConv1x1) and layer.lu:
            p = ops.convert_to_numpy(layer.p)
            ones = p.sum(0) == 1, p.sum(1) == 1, np.isin(p, (0, 1)).all(0)
            _require(layer, np.all(ones))
            sign = ops.convert_to_numpy(layer.sign)
            _require(layer, np.all(np.abs(sign) == 1))
            _require(layer, _largest(layer.log_s) <= MAX_LOG_SCALE)


def _largest(weight):
    return np.max(np.abs(ops.convert_to_numpy(weight)))


def _require(layer, holds):
    if not holds:
        raise ValueError(
            f"the weights of {layer.path} are no {type(layer).__name__}"
        )
