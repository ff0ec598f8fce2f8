"""The strict loader: it reads a model file of anybody's, and trusts nothing.

`keras.saving.load_model` builds whatever classes a file names. Here a file may
only fill in the arguments of `Glow`, plain values that are checked, and the
values of weights whose names, shapes and types follow from them. All of it is
checked before a model is built or changed.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import tempfile
import zipfile

import h5py

from keras_glow.checks import check_choice, one_line, printable_path
from keras_glow.flow.arguments import (
    ARGUMENTS,
    OLDER,
    check_arguments,
    check_name,
)
from keras_glow.flow.weights_layout import (
    RULES,
    optimizer_layout,
    weights_layout,
)

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = {"metadata.json", CONFIG, WEIGHTS}
OPTIONAL_MEMBER = "run.json"  # checkpoints have it; it is not read
MAX_CONFIG_BYTES = 2**20
MAX_FILE_BYTES = 2**32

DOCUMENT = {
    "module": "keras_glow.glow",
    "class_name": "Glow",
    "registered_name": "keras_glow>Glow",
}
# `compile_config` may name these, though none of them is ever built here.
COMPILE_MODULES = {
    "keras",  # the module of a dtype policy
    "keras.losses",
    "keras.metrics",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras_glow.losses",
    "keras_glow.optimizer",  # in older files
    "keras_glow.training.optimizer",
}
DTYPES = ("float32", "float64")


class ModelFileError(ValueError, OSError):
    """A model file that is not what it should be: names it and the reason.

    It is an OSError, since Keras expects one of a file that cannot be read: its
    BackupAndRestore then takes the file before.
    """


def read_model(path, sha256=None):
    """Reads a `.keras` file that `Glow.save` wrote, and refuses all others.

    Returns:
        Tuple of the configuration for `Glow.from_config` and a dict of arrays
        for `assign_weights`.

    Raises:
        ModelFileError, FileNotFoundError: see `keras_glow.load_model`.
    """
    with reading(path, sha256) as file, _archive(file) as archive:
        config = _read_config(archive)
        layout = weights_layout(config)
        return config, _read_weights(_read_member(archive, layout), layout)


def load_weights(model, path, sha256=None):
    """Fills a `Glow` from a file, see `Glow.load_weights`."""
    path = os.fsdecode(path)
    layout = weights_layout(model.get_config())
    optimizer = optimizer_layout(getattr(model, "optimizer", None))
    with reading(path, sha256) as file:
        if path.endswith(".keras"):
            with _archive(file) as archive:
                content = _read_member(archive, layout)
        elif path.endswith(".weights.h5"):
            _check_size(path, file_size(file), layout)
            content = file.read()
        else:
            raise ValueError("it is expected to be .weights.h5 or .keras")
        values = _read_weights(content, layout, optimizer)
    assign_weights(model, values)


def training_steps(path):
    """Returns how many steps the optimiser in a `.keras` file has made.

    It is None if the file holds no optimiser.

    Raises:
        ModelFileError, FileNotFoundError: see `keras_glow.load_model`.
    """
    with reading(path) as file, _archive(file) as archive:
        layout = weights_layout(_read_config(archive))
        content = io.BytesIO(_read_member(archive, layout))
        with h5py.File(content, "r") as weights:
            datasets = _datasets(weights)
            # The innermost optimiser counts the steps: its wrappers do not.
            name = r"optimizer/(inner_optimizer/)*vars/0"
            counters = [n for n in datasets if re.fullmatch(name, n)]
            steps = datasets.get(max(counters, key=len, default=None))
            if steps is None or steps.shape or steps.dtype.kind != "i":
                return None
            return int(steps[()])


@contextlib.contextmanager
def refusing(path):
    """Turns every error inside into a `ModelFileError` of the file."""
    try:
        yield
    except Exception as error:
        # zipfile, json and h5py raise many types of exception for damage.
        line = f"{printable_path(path)} is refused: {one_line(error)}"
        raise ModelFileError(line) from error


@contextlib.contextmanager
def reading(path, sha256=None):
    """Opens a file, and turns every error with it into a `ModelFileError`.

    Only a missing file is a `FileNotFoundError`.
    """
    path = os.fsdecode(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"{printable_path(path)} does not exist")
    with refusing(path):
        # This comes before opening: a pipe would wait for somebody to write.
        if not os.path.isfile(path):
            raise ValueError("it is not a regular file")
        with open(path, "rb") as file:
            if file_size(file) > MAX_FILE_BYTES:
                raise ValueError("it is over 4 GiB")
            if sha256 is not None:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != str(sha256).lower():
                    raise ValueError(f"its sha256 is {digest}, not {sha256}")
            file.seek(0)
            yield file


def file_size(file):
    """Returns the size of a file in bytes, and leaves it at its start."""
    return file.seek(0, io.SEEK_END) - file.seek(0)


# The archive


@contextlib.contextmanager
def _archive(file):
    """Opens a `.keras` file as a zip of its members and nothing more."""
    # zipfile would accept a script or an image with a zip file appended.
    if file.read(4) != b"PK\x03\x04" or not zipfile.is_zipfile(file):
        raise ValueError("it is not a .keras file, or is cut off")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = sorted(member.filename for member in members)
        if names not in (sorted(MEMBERS), sorted({*MEMBERS, OPTIONAL_MEMBER})):
            raise ValueError(
                f"it is expected to hold {sorted(MEMBERS)}, and holds "
                f"{names[:5]}"
            )
        refuse_compressed(archive)
        for member in members:
            if member.file_size > MAX_CONFIG_BYTES and (
                member.filename in MEMBERS - {WEIGHTS}
            ):
                raise ValueError(f"{member.filename} is too large")
        # Reading a member verifies its checksum.
        archive.read("metadata.json")
        yield archive


def refuse_compressed(archive):
    """Refuses a zip whose writer compresses nothing: what grows is a bomb."""
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or (
            member.file_size != member.compress_size
        ):
            raise ValueError(f"{member.filename} is compressed")
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename} is encrypted")


def _read_member(archive, layout):
    _check_size(WEIGHTS, archive.getinfo(WEIGHTS).file_size, layout)
    return archive.read(WEIGHTS)


def _check_size(name, size, layout):
    """Refuses a file that cannot hold the weights, or much more than them.

    So a small file cannot ask for a large model, nor make the loader read more.
    """
    least = sum(weight.bytes for weight in layout.values())
    # An optimiser keeps several numbers for each weight.
    most = 8 * least + 2**15 * len(layout) + 2**20
    if not least <= size <= most:
        raise ValueError(
            f"{name} is {size:,} bytes long, for weights of {least:,} bytes"
        )


# The configuration


def _read_config(archive):
    """Reads the arguments of `Glow` in `config.json`, and checks each."""
    document = json.loads(
        archive.read(CONFIG).decode(),
        parse_constant=_refuse_constant,
        object_pairs_hook=_unique,
    )
    if not isinstance(document, dict) or any(
        document.get(name) != value for name, value in DOCUMENT.items()
    ):
        raise ValueError("config.json does not describe a keras_glow>Glow")
    _check_keys(document, {*DOCUMENT, "config", "compile_config"})
    _check_modules(document["compile_config"])
    config = document["config"]
    if isinstance(config, dict):
        config = {**OLDER, **config}
    _check_keys(config, {*ARGUMENTS, "name", "dtype"})
    check_name(config["name"])
    check_choice("dtype", config["dtype"], DTYPES)
    check_arguments(config)
    return config


def _refuse_constant(name):
    raise ValueError(f"config.json holds {name}")


def _unique(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("config.json holds a key twice")
    return members


def _check_keys(members, expected):
    if not isinstance(members, dict):
        raise ValueError("config.json holds no keys where some are expected")
    if set(members) != expected:
        odd = sorted(set(members) ^ expected)
        raise ValueError(f"the keys in config.json differ by {odd}")


def _check_modules(value):
    """Refuses a `compile_config` that names anything foreign to training."""
    if isinstance(value, dict):
        named = {"module", "class_name", "registered_name"} & set(value)
        if named and value.get("module") not in COMPILE_MODULES:
            raise ValueError(
                "compile_config is expected to name optimisers, losses and "
                "metrics of Keras or of keras_glow alone. Received: "
                f"{value.get('module')!r}, {value.get('class_name')!r}"
            )
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        _check_modules(item)


# The weights


def _read_weights(content, layout, optimizer=None):
    """Returns the arrays that a layout asks for, by name.

    The state of an optimiser is read only if the file holds exactly what the
    layout of `optimizer` asks for: then the same optimiser was saved.
    """
    with h5py.File(io.BytesIO(content), "r") as file:
        datasets = _datasets(file)
        state = {
            name: datasets.pop(name)
            for name in list(datasets)
            if name.startswith("optimizer/")
        }
        odd = min(layout.keys() ^ datasets.keys(), default=None)
        if odd is not None:
            verb = "missing" if odd in layout else "not of this model"
            raise ValueError(f"weight {odd} is {verb}")
        for name, weight in layout.items():
            dtype, shape = str(datasets[name].dtype), datasets[name].shape
            if (dtype, shape) != (weight.dtype, weight.shape):
                raise ValueError(
                    f"weight {name} is expected to be {weight.dtype} "
                    f"{weight.shape}. Received: {dtype} {shape}"
                )
        expected = layout
        optimizer = {
            name: weight
            for name, weight in (optimizer or {}).items()
            # Older files lack it, which means 0.
            if name in state or not name.endswith("/averaged")
        }
        if optimizer and _shapes(state) == _shapes(optimizer):
            expected, datasets = layout | optimizer, datasets | state
        values = {}
        for name, weight in expected.items():
            values[name] = datasets[name][()]
            if not RULES[weight.rule](values[name]):
                raise ValueError(
                    f"weight {name} is expected to be {weight.rule}"
                )
    return values


def _shapes(weights):
    return {name: weight.shape for name, weight in weights.items()}


def _datasets(file):
    """Returns every dataset of an HDF5 file by name, and reads none of them."""
    found, groups = {}, set()

    def visit(group, prefix):
        groups.add(h5py.h5o.get_info(group.id).addr)
        for name in group:
            path = prefix + name
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path} is a link")
            item = group[name]
            if isinstance(item, h5py.Group):
                if h5py.h5o.get_info(item.id).addr in groups:
                    raise ValueError(f"group {path} is there twice")
                if path.count("/") > 20:
                    raise ValueError("its groups are nested too deeply")
                visit(item, f"{path}/")
            elif _is_plain(item):
                found[path] = item
            else:
                raise ValueError(f"{path} is not stored plainly")

    visit(file, "")
    return found


def _is_plain(item):
    """Returns whether a dataset holds plain numbers, all in this file."""
    return (
        isinstance(item, h5py.Dataset)
        and item.id.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
        and item.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        and not item.external
        and item.shape is not None
        and item.id.get_storage_size() == item.nbytes
    )


def assign_weights(model, values):
    """Assigns weights to a model, through a file that holds nothing else."""
    import keras  # A file is read without it.

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "checked.weights.h5"
        with h5py.File(path, "w") as file:
            for name, value in values.items():
                file[name] = value
        keras.Model.load_weights(model, path)
