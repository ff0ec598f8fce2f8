"""Writes arrays as `torch.save` does, its two formats, without PyTorch."""

import io
import struct
import zipfile

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def sequence(*items):
    return b"(" + b"".join(items) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def ordered(items):
    return named("collections", "OrderedDict") + b")R" + settings(items)


def settings(items):
    return b"(" + b"".join(items) + b"u"


class Writer:
    """Pickles nested dicts of arrays and plain values; gathers storages."""

    def __init__(self, legacy, tensor=None):
        self.legacy = legacy
        self.tensor = tensor or self.describe
        self.storages = {}

    def value(self, value):
        if isinstance(value, dict):
            items = [
                (integer(k) if isinstance(k, int) else text(k)) + self.value(v)
                for k, v in value.items()
            ]
            return ordered(items)
        if isinstance(value, np.ndarray):
            key = str(len(self.storages))
            # Now and then transposed: PyTorch writes strides.
            transposed = value.ndim == 2 and len(self.storages) % 2
            stored = np.asarray(value.T if transposed else value, order="C")
            self.storages[key] = stored.reshape(-1)
            strides = [s // value.itemsize for s in stored.strides]
            strides = strides[::-1] if transposed else strides
            return self.tensor(key, stored, value.shape, strides)
        if isinstance(value, (list, tuple)):
            items = b"".join(map(self.value, value))
            if isinstance(value, list):
                return b"](" + items + b"e"
            return b"(" + items + b"t"
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        for constant, code in ((None, b"N"), (True, b"\x88"), (False, b"\x89")):
            if value is constant:
                return code
        return integer(value)

    def describe(self, key, stored, shape, strides, count=None, offset=0):
        """A tensor; `count` and `offset` may lie."""
        storage = sequence(
            text("storage"),
            named("torch", STORAGES[str(stored.dtype)]),
            text(key),
            text("cuda:0"),
            integer(stored.size if count is None else count),
            *([b"N"] if self.legacy else []),
        )
        return (
            named("torch._utils", "_rebuild_tensor_v2")
            + sequence(
                storage + b"Q",
                integer(offset),
                sequence(*map(integer, shape)),
                sequence(*map(integer, strides)),
                b"\x89",
                named("collections", "OrderedDict") + b")R",
            )
            + b"R"
        )


def pickled(program):
    return b"\x80\x02" + program + b"."


def torch_bytes(state, legacy=False, tensor=None, program=None):
    """The bytes of a file of `torch.save`; `program` replaces its pickle."""
    writer = Writer(legacy, tensor)
    pickle = pickled(writer.value(state)) if program is None else program
    if legacy:
        magic = 0x1950A86A20F9469CFC6C
        pickles = [
            pickled(integer(magic)),
            pickled(integer(1001)),
            pickled(writer.value({"little_endian": True})),
            pickle,
            pickled(b"](" + b"".join(map(text, writer.storages)) + b"e"),
        ]
        storages = [
            struct.pack("<q", s.size) + s.tobytes()
            for s in writer.storages.values()
        ]
        return b"".join(pickles + storages)
    files = {"data.pkl": pickle, "byteorder": b"little", "version": b"3\n"}
    for key, storage in writer.storages.items():
        files[f"data/{key}"] = storage.tobytes()
    return zipped({f"archive/{name}": data for name, data in files.items()})


def zipped(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()
