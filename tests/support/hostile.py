"""Hostile model files, made of a valid one in every run: none is kept.

The gadgets are those of the advisories on Keras' own loader, written down as a
file would name them. None is ever run: a file that is refused names a canary
file, which must not be there afterwards.
"""

import copy
import io
import json
import struct
import zipfile

import h5py
import numpy as np

STEP = "bijections/flow_step"


def members(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(files, compression=zipfile.ZIP_STORED):
    """A zip file; `files` is a dict, or pairs if names come twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in dict(files).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_document(content, change):
    """The file with another `config.json`: `change` alters what it holds."""
    files = members(content)
    document = json.loads(files["config.json"])
    document = change(document) or document
    return pack({**files, "config.json": json.dumps(document)})


def with_text(content, text):
    return pack({**members(content), "config.json": text})


def with_arguments(content, **changes):
    return with_document(content, lambda d: d["config"].update(changes))


def gadgets(canary):
    """What an attacker has a loader build, by the advisory it comes from."""

    def named(module, class_name, config, registered_name=None):
        return {
            "module": module,
            "class_name": class_name,
            "config": config,
            "registered_name": registered_name,
        }

    def function(module, name):
        return named(module, "function", name, "function")

    code = {"code": "4wAAAAAAAAAA", "defaults": None, "closure": None}
    function_of = {"class_name": "__lambda__", "config": code}
    inner = named("keras.layers", "Lambda", {"function": function_of})
    return {
        "lambda": inner,
        "nested lambda": named("keras.layers", "TimeDistributed", {"l": inner}),
        "bare lambda": function_of,
        "os.system": function("os", "system"),
        "eval": function("builtins", "eval"),
        "Popen": named("subprocess", "Popen", {"args": ["touch", canary]}),
        "unsafe": function("keras.config", "enable_unsafe_deserialization"),
        "torch": named(
            "keras.layers", "TorchModuleWrapper", {"module": "gAR9"}
        ),
        "saved model": named("keras.layers", "TFSMLayer", {"filepath": canary}),
        "vocabulary": named(
            "keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}
        ),
        "get_file": function("keras.utils", "get_file"),
        "gallery": function("keras.visualization", "plot_image_gallery"),
        "plot_model": function("keras.utils", "plot_model"),
        "set_floatx": function("keras.config", "set_floatx"),
        "seed": function("keras.utils", "set_random_seed"),
        "vectorized map": named("keras.src.ops.core", "VectorizedMap", {}),
        "own class": named("evil", "Evil", {}, "evil>Evil"),
    }


def positions():
    """Where a gadget stands, how it gets there, and why it is refused."""

    def document(d, gadget):
        return gadget

    def argument(d, gadget):
        d["config"]["permutation"] = gadget

    def initializer(d, gadget):
        d["config"]["initializer"] = gadget

    def name(d, gadget):
        d["config"]["name"] = gadget

    def build(d, gadget):
        d["build_config"] = gadget

    def loss(d, gadget):
        d["compile_config"]["loss"] = gadget

    def metric(d, gadget):
        d["compile_config"]["metrics"] = [["mse", gadget]]

    def rate(d, gadget):
        optimizer = d["compile_config"]["optimizer"]
        optimizer["config"]["learning_rate"] = gadget

    reason = "compile_config is expected to name"
    return [
        (document, "does not describe"),
        (argument, "`permutation` is expected"),
        (initializer, "differ by .'initializer'"),
        (name, "`name` is expected"),
        (build, "differ by .'build_config'"),
        (loss, reason),
        (metric, reason),
        (rate, reason),
    ]


def gadget_files(content, canary):
    for name, gadget in gadgets(canary).items():
        for place, reason in positions():

            def change(document, place=place, gadget=gadget):
                return place(document, copy.deepcopy(gadget))

            file = with_document(content, change)
            yield f"{name} as {place.__name__}", file, reason


def argument_files(content):
    huge, large = 10**18, "bytes long, for weights of|parameters"
    most = {"image_shape": [1024, 1024, 1], "levels": 10, "depth": 1024}
    for arguments, reason in [
        ({"depth": huge}, "`depth`"),
        ({"depth": 1024}, large),
        (most, "steps of flow|parameters"),
        ({"width": 2**31 - 1}, large),
        ({"width": 2**33}, large),
        ({"width": 4096, "depth": 256}, large),
        ({"num_classes": 10**9}, large),
        ({"image_shape": [2**16, 2**16, 1]}, large),
        ({"image_shape": [4, 4, 10**9]}, large),
        ({"image_shape": [4, 4, huge]}, large),
        ({"image_shape": [4, 4, -1]}, "`image_shape`"),
        ({"image_shape": [4, 4, 0]}, "`image_shape`"),
        ({"image_shape": [4.0, 4, 1]}, "`image_shape`"),
        ({"image_shape": [True, 4, 1]}, "`image_shape`"),
        ({"image_shape": [4, 4]}, "`image_shape`"),
        ({"image_shape": [5, 5, 1]}, "`image_shape`"),
        ({"image_shape": []}, "`image_shape`"),
        ({"image_shape": "444"}, "`image_shape`"),
        ({"image_shape": None}, "`image_shape`"),
        ({"image_shape": [[4], 4, 1]}, "`image_shape`"),
        ({"levels": -1}, "`levels`"),
        ({"levels": 0}, "`levels`"),
        ({"levels": True}, "`levels`"),
        ({"levels": 2.0}, "`levels`"),
        ({"levels": "2"}, "`levels`"),
        ({"levels": None}, "`levels`"),
        ({"levels": 10}, "`image_shape`"),
        ({"bits": 99}, "`bits`"),
        ({"seed": 2**70}, "`seed`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 1.5}, "`seed`"),
        ({"num_classes": 0}, "`num_classes`"),
        ({"name": "x" * 10_000}, "`name`"),
        ({"name": "\x1b[2J"}, "`name`"),
        ({"name": "\ud800"}, "`name`"),
        ({"name": 1}, "`name`"),
        ({"dtype": "int8"}, "`dtype`"),
        ({"dtype": {"module": "os"}}, "`dtype`"),
        ({"permutation": "os.system"}, "`permutation`"),
        ({"coupling": "../../evil"}, "`coupling`"),
        ({"coupling": ["affine"]}, "`coupling`"),
        ({"scale": None}, "`scale`"),
        ({"memory": "x"}, "`memory`"),
        ({"border": 1}, "`border`"),
        ({"border": True}, "expected to be float32"),
        ({"network_dtype": {"module": "os"}}, "`network_dtype`"),
        ({"unknown": 1}, "differ by .'unknown'"),
        ({"permutation": "shuffle"}, "not of this model"),
        ({"coupling": "additive"}, "expected to be float32"),
    ]:
        yield f"{arguments}"[:60], with_arguments(content, **arguments), reason


def document_files(content):
    text = members(content)["config.json"].decode()
    config = json.loads(text)["config"]

    def of_depth(number):
        return text.replace('"depth": 1', f'"depth": {number}')

    def registered(**changes):
        return with_document(content, lambda d: d.update(changes))

    def without(key):
        return with_document(content, lambda d: d.pop(key) and None)

    del config["seed"]
    yield "other package", registered(registered_name="x>Glow"), "describe"
    yield "other class", registered(class_name="Lambda"), "describe"
    yield "other module", registered(module="os"), "describe"
    yield "unknown key", registered(inbound_nodes=[]), "'inbound_nodes'"
    yield "a list for config", registered(config=[]), "holds no keys"
    yield "a number for config", registered(config=3), "holds no keys"
    yield "no seed", registered(config=config), "differ by .'seed'"
    yield "no config", without("config"), "differ by .'config'"
    yield "no registered name", without("registered_name"), "describe"
    for name, changed, reason in [
        ("a key twice", text.replace("{", '{"module": "os",', 1), "twice"),
        ("NaN", of_depth("NaN"), "holds NaN"),
        ("Infinity", of_depth("Infinity"), "holds Infinity"),
        ("-Infinity", of_depth("-Infinity"), "holds -Infinity"),
        ("1e999", of_depth("1e999"), "`depth`"),
        ("10**5000", of_depth("1" + "0" * 5000), "limit"),
        ("cut off", text[:-1], "delimiter|Expecting"),
        ("something after it", text + "{}", "Extra data"),
        ("nothing", "", "Expecting"),
        ("a list", "[]", "does not describe"),
        ("a string", '"os.system"', "does not describe"),
        ("nested deeply", "[" * 100_000, "recursion"),
        ("nested objects", '{"a":' * 100_000, "recursion"),
        ("not text", b"\xff\xfe\x00", "codec"),
        ("UTF-16", text.encode("utf-16"), "codec"),
        ("a pickle", b"\x80\x04cos\nsystem\n.", "codec"),
        ("a number without end", "1" * 10**6, "limit|digits"),
        ("too long", " " * 2**21, "config.json is too large"),
    ]:
        yield f"config.json: {name}", with_text(content, changed), reason


def archive_files(content):
    files = members(content)

    def added(name, data=b"x"):
        return pack({**files, name: data})

    def twice(name):
        # zipfile warns of a name that is there already; the bytes do not.
        other = "X" * len(name)
        packed = pack({**files, other: files[name]})
        return packed.replace(other.encode(), name.encode())

    for name in (
        "../evil.txt",
        "/evil.txt",
        "..\\evil.txt",
        "assets/vocabulary.txt",
        "config.json/",
        "model.weights.npz",
        "evil\x1b[2J\n.py",
    ):
        yield f"member {name!r}", added(name), "expected to hold"
    for name in files:
        yield f"two of {name}", twice(name), "expected to hold"
        rest = {k: v for k, v in files.items() if k != name}
        yield f"no {name}", pack(rest), "expected to hold"
    deflated = pack(files, zipfile.ZIP_DEFLATED)
    yield "compressed", deflated, "is compressed"
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        for name in files:
            if name != "config.json":
                archive.writestr(name, files[name])
        archive.compression, archive.compresslevel = zipfile.ZIP_DEFLATED, 1
        with archive.open("config.json", "w", force_zip64=True) as file:
            for _ in range(1024):  # 1 GiB of zeros in a few MB
                file.write(bytes(2**20))
    yield "1 GiB of config", bomb.getvalue(), "config.json is compressed"
    for name in files:
        grown = pack({**files, name: bytes(2**24)}, zipfile.ZIP_DEFLATED)
        yield f"16 MiB of {name}", grown, "is compressed"
    long = {**files, "metadata.json": b" " * 2**21}
    yield "long metadata", pack(long), "metadata.json is too large"
    for size in (2**30, 2**32 - 2):
        # Both sizes of the last member, in the central directory, are lies.
        lie = bytearray(content)
        start = content.rindex(b"PK\x01\x02")
        struct.pack_into("<II", lie, start + 20, size, size)
        yield f"a member said to be {size}", bytes(lie), "bytes long"
    encrypted = bytearray(content)
    encrypted[content.index(b"PK\x01\x02") + 8] |= 1
    yield "encrypted", bytes(encrypted), "is encrypted"
    for name, data in {
        "empty": b"",
        "text": b"text",
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch x'\ntR.",
        "an HDF5 file": files["model.weights.h5"],
        "an empty zip": pack({}),
        "zeros": bytes(10**6),
        "a script before it": b"#!/bin/sh\ntouch x\n" + content,
    }.items():
        yield name, data, "not a .keras file|expected to hold"
    evil = {**files, "model.weights.h5": b"\x89HDF\r\n\x1a\n" * 2000}
    yield "no HDF5 inside", pack(evil), "open file|bytes long"


def keras_files(content, canary):
    """Tuples of name, content and reason, from one valid `.keras` file."""
    yield from gadget_files(content, canary)
    yield from argument_files(content)
    yield from document_files(content)
    yield from archive_files(content)


# Weights


def with_datasets(content, change):
    """An HDF5 file, changed."""
    buffer = io.BytesIO(content)
    with h5py.File(buffer, "r+") as file:
        change(file)
    return buffer.getvalue()


def replaced(name, value):
    """Another dataset in the place of one, or none."""

    def change(file):
        file.pop(name, None)
        if value is not None:
            file[name] = value

    return change


def created(name, *args, **kwargs):
    def change(file):
        file.pop(name, None)
        file.create_dataset(name, *args, **kwargs)

    return change


def filled(name, value, where=...):
    def change(file):
        file[name][where] = value

    return change


def linked(name, target):
    def change(file):
        file[name] = file[target]

    return change


def _virtual(file):
    shape = file[f"{STEP}/actnorm/vars/0"].shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape)
    del file[f"{STEP}/actnorm/vars/0"]
    file.create_virtual_dataset(f"{STEP}/actnorm/vars/0", layout)


def _deep(file):
    file["/".join("x" * 500)] = 1.0


def _named_type(file):
    file["type"] = np.dtype("f4")


def weights_files(content):
    """Tuples of name, content and reason, from a valid weights file.

    It has an `InvertibleConv1x1`, and `ActNorm` of 4 channels first.
    """
    scale, bias, flag = (f"{STEP}/actnorm/vars/{i}" for i in range(3))
    conv = f"{STEP}/permutation/vars"
    external = [("/etc/passwd", 0, 16)]
    compound = np.zeros(4, [("a", "f4"), ("b", "f4")])
    plainly = "is not stored plainly"
    for name, change, reason in [
        ("soft link", replaced(scale, h5py.SoftLink("/vars")), "is a link"),
        ("dangling link", replaced(scale, h5py.SoftLink("/no")), "is a link"),
        (
            "external link",
            replaced(scale, h5py.ExternalLink("/etc/passwd", "/")),
            "is a link",
        ),
        (
            "external link as a group",
            replaced(STEP, h5py.ExternalLink("other.h5", "/")),
            "is a link",
        ),
        (
            "link beside the optimiser",
            replaced("optimizer", h5py.ExternalLink("other.h5", "/")),
            "is a link",
        ),
        (
            "external storage",
            created(scale, (4,), "f4", external=external),
            plainly,
        ),
        ("virtual dataset", _virtual, plainly),
        ("1 GiB declared", created(scale, (2**28,), "f4"), plainly),
        ("2**60 declared", created(scale, (2**60,), "i1"), plainly),
        ("2**60 beside it", created("more", (2**60,), "i1"), plainly),
        ("declared only", created(scale, (4,), "f4"), plainly),
        (
            "compressed",
            created(scale, data=np.zeros(4, "f4"), compression="gzip"),
            plainly,
        ),
        (
            "1 GiB compressed",
            created(scale, (2**28,), "f4", chunks=True, fillvalue=1),
            plainly,
        ),
        (
            "resizable",
            created(scale, data=np.zeros(4, "f4"), maxshape=(None,)),
            plainly,
        ),
        ("text", replaced(scale, "text"), plainly),
        ("fixed text", replaced(scale, np.full(4, b"text")), plainly),
        ("compound", replaced(scale, compound), plainly),
        ("opaque", replaced(scale, np.zeros(4, "V4")), plainly),
        ("references", created(scale, (4,), h5py.ref_dtype), plainly),
        ("bool", replaced(scale, np.zeros(4, bool)), plainly),
        ("complex", replaced(scale, np.zeros(4, "c8")), plainly),
        ("no values", replaced(scale, h5py.Empty("f4")), plainly),
        ("named type", _named_type, plainly),
        ("float64", replaced(scale, np.zeros(4, "f8")), "Received: float64"),
        ("float16", replaced(scale, np.zeros(4, "f2")), "Received: float16"),
        ("big endian", replaced(scale, np.zeros(4, ">f4")), "Received: >f4"),
        ("integers", replaced(scale, np.zeros(4, "i4")), "Received: int32"),
        ("too long", replaced(scale, np.zeros(9, "f4")), r"\(9,\)"),
        ("broadcastable", replaced(scale, np.zeros((1, 4), "f4")), r"\(1, 4\)"),
        ("one value", replaced(scale, np.zeros(1, "f4")), r"\(1,\)"),
        ("scalar", replaced(scale, np.float32(0)), r"\(\)"),
        ("flag of shape 1", replaced(flag, np.ones(1, "i4")), r"\(1,\)"),
        ("flag as float", replaced(flag, np.float32(1)), "Received: float32"),
        ("missing", replaced(scale, None), "is missing"),
        ("group missing", replaced(STEP, None), "is missing"),
        ("all missing", lambda file: file.clear(), "is missing"),
        ("extra", created("more", data=1), "not of this model"),
        (
            "extra step",
            lambda file: file.copy(STEP, "bijections/flow_step_9"),
            "not of this model",
        ),
        ("extra in a group", created("layers/x", data=1), "not of this model"),
        ("cyclic group", linked(f"{STEP}/loop", "/"), "is there twice"),
        ("group twice", linked("bijections/x", STEP), "is there twice"),
        ("dataset twice", linked(f"{STEP}/x", scale), "not of this model"),
        ("deep", _deep, "nested too deeply"),
        ("terminal codes", created("\x1b[2J\n", data=1), "not of this model"),
        ("NaN", filled(scale, np.nan), "log-scales within"),
        ("one NaN", filled(bias, np.nan, -1), "expected to be finite"),
        ("infinity", filled(bias, np.inf), "expected to be finite"),
        ("minus infinity", filled(bias, -np.inf, 0), "expected to be finite"),
        ("scale of e**50", filled(scale, 50.0), "log-scales within"),
        ("scale of e**-50", filled(f"{conv}/0", -50.0, 0), "log-scales within"),
        ("flag 7", filled(flag, 7), "expected to be 0 or 1"),
        ("flag -1", filled(flag, -1), "expected to be 0 or 1"),
        ("matrix of 0.5", filled(f"{conv}/3", 0.5), "a permutation matrix"),
        ("matrix of 0", filled(f"{conv}/3", 0.0), "a permutation matrix"),
        ("matrix of 1", filled(f"{conv}/3", 1.0), "a permutation matrix"),
        ("NaN matrix", filled(f"{conv}/3", np.nan), "a permutation matrix"),
        ("sign 0", filled(f"{conv}/4", 0.0, 0), "expected to be 1 or -1"),
        ("sign 2", filled(f"{conv}/4", 2.0, 0), "expected to be 1 or -1"),
        ("negative seed", filled("vars/train_noise", -1), "32 bits"),
        ("large seed", filled("vars/train_noise", 2**40), "32 bits"),
    ]:
        yield name, with_datasets(content, change), reason
    yield "empty", b"", "open file|bytes long"
    yield "text", b"text" * 10_000, "open file"
    yield "cut off", content[: len(content) // 2], "truncated|open file"
    yield "long", content + bytes(10**7), "bytes long"


def shuffle_files(content):
    """Likewise, from a weights file with a `Shuffle` of 4 channels."""
    order = f"{STEP}/permutation/vars/0"
    rule = "expected to be a permutation"
    for name, change, reason in [
        ("repeated", filled(order, [0, 1, 2, 2]), rule),
        ("out of range", filled(order, [0, 1, 2, 999]), rule),
        ("negative", filled(order, [-1, 0, 1, 2]), rule),
        ("from 1", filled(order, [1, 2, 3, 4]), rule),
        (
            "floats",
            replaced(order, np.array([0.0, 1.7, 2, 3], "f4")),
            "Received: float32",
        ),
        (
            "64 bits",
            replaced(order, np.arange(4, dtype="i8")),
            "Received: int64",
        ),
    ]:
        yield f"permutation: {name}", with_datasets(content, change), reason


def optimizer_files(content):
    """Likewise, whose optimiser is bad: only `load_weights` reads it."""
    inner = "optimizer/inner_optimizer/vars"
    for name, change, reason in [
        ("NaN", filled(f"{inner}/2", np.nan), "finite"),
        ("infinity", filled(f"{inner}/1", np.inf), "finite"),
        (
            "link",
            replaced(f"{inner}/3", h5py.SoftLink("/vars")),
            "is a link",
        ),
        (
            "1 GiB declared",
            created(f"{inner}/3", (2**28,), "f4"),
            "is not stored plainly",
        ),
    ]:
        yield f"optimiser: {name}", with_datasets(content, change), reason
