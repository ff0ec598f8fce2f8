"""Opens checkpoints of other projects as arrays by name."""

import contextlib
import functools
import math
import pathlib
import zipfile

from keras_glow.conversion.torch_file import open_torch_file
from keras_glow.files.strict_reader import file_size, reading, refusing
from keras_glow.images.npz import open_npz


@contextlib.contextmanager
def open_checkpoint(path):
    """Open a checkpoint; nothing in it is run.

    Args:
        path: a file of `torch.save`, an `.npz` of named arrays, or the name of
            a TensorFlow checkpoint, with or without its `.index`.

    Yields:
        A dict of names to functions that read the array.

    Raises:
        ModelFileError: naming the file and what is wrong with it; also for
            whatever goes wrong while it is open.
        FileNotFoundError: if there is none.
    """
    prefix = str(path).removesuffix(".index")
    if pathlib.Path(f"{prefix}.index").is_file():
        with refusing(path):
            yield _readers(*_open_tensorflow(prefix))
        return
    with reading(path) as file:
        size = file_size(file)
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            if all(m.filename.endswith(".npy") for m in members):
                # It may be compressed, but weights do not shrink much.
                arrays = open_npz(file, max_bytes=8 * size + 2**26)
                yield _readers(arrays, arrays.get)
                return
        file.seek(0)
        yield _readers(*open_torch_file(file, size))


def _readers(names, read):
    return {name: functools.partial(read, name) for name in names}


def _open_tensorflow(prefix):
    """Open a checkpoint of TensorFlow, 1 or 2: see `open_torch_file`."""
    try:
        import tensorflow as tf  # It reads files, whatever the backend is.
    except ImportError as error:
        raise ValueError(
            "reading it takes TensorFlow, which is not installed"
        ) from error
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    prefix = pathlib.Path(prefix)
    size = sum(
        file.stat().st_size
        for file in prefix.parent.iterdir()
        if file.name.startswith(f"{prefix.name}.data-")
    )
    # TensorFlow makes room for what the index promises.
    needed = sum(
        math.prod(shape) * dtypes[name].size for name, shape in shapes.items()
    )
    if needed > size:
        raise ValueError(f"{size:,} bytes hold no {needed:,} of variables")
    return shapes, reader.get_tensor
