"""Reads the tensors of a file of `torch.save`, without PyTorch.

Such a file holds a pickle, a program that can build any objects, and beside it
the numbers of the tensors. The program is not run here. `pickletools` reads its
instructions; those few that build plain values and tensors are followed, all
others are refused.
"""

import math
import pickletools
import struct
import typing
import zipfile

import numpy as np

from keras_glow.files.strict_reader import refuse_compressed

MAX_AXES = 8
MAX_DEPTH = 4  # dicts within dicts
# Files from before PyTorch 1.6 begin with these two numbers.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

STORAGES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
    "torch BoolStorage": "?",
}


class Storage(typing.NamedTuple):
    """A row of numbers beside the pickle."""

    dtype: np.dtype
    key: str
    count: int  # type: ignore[assignment] # the method of a tuple

    @property
    def bytes(self):
        """Length in the file."""
        return self.count * self.dtype.itemsize


class Tensor(typing.NamedTuple):
    """An array, described by its place in a storage."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self, content):
        """Return the array, given the bytes of its storage."""
        dtype, size = self.storage.dtype, math.prod(self.shape)
        last = self.offset + sum(
            (length - 1) * stride
            for length, stride in zip(self.shape, self.strides, strict=True)
        )
        # With strides of 0 a tensor could be much larger than its storage.
        if size and max(last + 1, size) > self.storage.count:
            raise ValueError("a tensor reaches beyond its storage")
        start = self.offset * dtype.itemsize
        strides = [stride * dtype.itemsize for stride in self.strides]
        return np.ndarray(self.shape, dtype, content, start, strides).copy()


def open_torch_file(file, size):
    """Opens a file of `torch.save`, of `size` bytes.

    Returns:
        Tuple of the names of its tensors, and a function that reads one as an
        array. Tensors of a dict inside a dict are named `outer/inner`.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if file.read(2) == b"PK":
        read_storage, state = _open_archive(file)
    else:
        read_storage, state = _open_legacy(file, size)
    tensors = dict(_tensors(state, set()))

    def read(name):
        tensor = tensors[name]
        content = read_storage(tensor.storage)
        if len(content) != tensor.storage.bytes:
            raise ValueError(
                f"the numbers of {name} are expected to be "
                f"{tensor.storage.bytes:,} bytes long. "
                f"Received: {len(content):,}"
            )
        return tensor.array(content)

    return tensors.keys(), read


def _open_archive(file):
    """Open a file of PyTorch since 1.6: a zip, a member for each storage."""
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1 or names[0].count("/") != 1:
        raise ValueError("it is expected to hold one data.pkl")
    folder = names[0].removesuffix("data.pkl")
    refuse_compressed(archive)
    order = folder + "byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("it was written by a big-endian machine")
    with archive.open(names[0]) as program:
        state, _ = _interpret(program)

    def read(storage):
        return archive.read(f"{folder}data/{storage.key}")

    return read, state


def _open_legacy(file, size):
    """Open a file from before PyTorch 1.6: storages follow the pickles."""
    file.seek(0)
    if [_interpret(file)[0] for _ in range(2)] != [MAGIC, PROTOCOL]:
        raise ValueError("it is not a file of torch.save")
    _interpret(file)  # It describes the machine that wrote the file.
    state, storages = _interpret(file)
    keys, _ = _interpret(file)
    starts = {}
    for key in _of_type(list, keys):
        header = file.read(8)
        storage = storages.get(key)
        if storage is None or len(header) < 8:
            raise ValueError("its storages are not those of its tensors")
        (count,) = struct.unpack("<q", header)
        starts[key] = file.tell()
        if count != storage.count or starts[key] + storage.bytes > size:
            raise ValueError("its storages are cut off")
        file.seek(storage.bytes, 1)

    def read(storage):
        file.seek(starts[storage.key])
        return file.read(storage.bytes)

    return read, state


def _tensors(state, seen, path=""):
    """Yield names and tensors of dicts within dicts, each dict once."""
    if isinstance(state, Tensor):
        yield path, state
    elif isinstance(state, dict) and id(state) not in seen:
        seen.add(id(state))
        if path.count("/") > MAX_DEPTH:
            raise ValueError("its dicts are nested too deeply")
        for key, value in state.items():
            name = f"{path}/{key}" if path else str(key)
            yield from _tensors(value, seen, name)


# The pickle

PLAIN = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
}
VALUES = {"NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


def _interpret(file):
    """Return the value that a pickle describes, and its storages by key.

    The file is left behind the pickle.
    """
    try:
        return _follow(pickletools.genops(file))
    except LookupError as error:  # The stack, the marks or the memo lack it.
        raise ValueError("its pickle is damaged") from error


def _follow(instructions):
    stack, marks, memo, storages = [], [], {}, {}

    def above_mark():
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for instruction, argument, _ in instructions:
        name = instruction.name
        if name in PLAIN:
            stack.append(VALUES.get(name, argument))
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(above_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("APPEND", "APPENDS"):
            items = above_mark() if name == "APPENDS" else [stack.pop()]
            _of_type(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            if name == "SETITEM":
                marks.append(len(stack) - 2)
            items = above_mark()
            _set_items(_of_type(dict, stack[-1]), items)
        elif name == "GLOBAL":
            stack.append(_named(argument))
        elif name == "REDUCE":
            arguments = _of_type(tuple, stack.pop())
            builder = BUILDERS[_of_type(_Name, stack.pop())]
            stack.append(builder(*arguments))
        elif name == "BINPERSID":
            storage = _storage(stack.pop())
            stack.append(storages.setdefault(storage.key, storage))
        elif name == "BUILD":
            stack.pop()  # A state dict has the versions of its modules here.
        elif name == "STOP":
            return stack.pop(), storages
        elif name != "PROTO":
            raise ValueError(f"its pickle holds {name}, which no tensor needs")
    raise ValueError("its pickle is cut off")


class _Name(str):
    """A name in `BUILDERS` or `STORAGES`; no other value is of this class."""


def _named(name):
    if name not in STORAGES and name not in BUILDERS:
        raise ValueError(f"its pickle names {name!r}, which no tensor needs")
    return _Name(name)


def _of_type(kind, value):
    if type(value) is not kind:
        raise ValueError("its pickle is damaged")
    return value


def _set_items(target, items):
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int):
            raise ValueError("its pickle holds keys that are no names")
        target[key] = value


def _storage(identity):
    kind, dtype, key, _, count, *view = _of_type(tuple, identity)
    if kind != "storage" or any(view) or dtype not in STORAGES:
        raise ValueError("its pickle names what is no storage")
    dtype = np.dtype(STORAGES[dtype])
    return Storage(dtype, _of_type(str, key), _of_type(int, count))


def _tensor(storage, offset, shape, strides, *_):
    for numbers in ((offset,), shape, strides):
        if len(_of_type(tuple, numbers)) > MAX_AXES or not all(
            type(n) is int and n >= 0 for n in numbers
        ):
            raise ValueError("a tensor has no such shape")
    return Tensor(_of_type(Storage, storage), offset, shape, strides)


BUILDERS = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda data, *_: _of_type(Tensor, data),
}
