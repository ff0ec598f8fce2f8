"""Every effect of this package on the process that it runs in.

| effect | where | from | until |
|---|---|---|---|
| no TensorFloat-32 | TensorFlow, Torch; GPU | first layer | `allow_tf32()` |
| freed memory is kept | TensorFlow; Linux, CPU | `fit` | end of `fit` |

Importing does nothing, nor does building a model without a GPU. At the end of
`fit` the kept memory goes back to the kernel, but glibc's settings stay: it no
longer adapts them by itself. The command line does more, as a program may: it
handles signals, escapes what the console cannot print, sets
`TF_CPP_MIN_LOG_LEVEL`, and for `train` `TF_ENABLE_ONEDNN_OPTS`.
"""

import contextlib
import ctypes
import functools
import os
import sys

import keras

from keras_glow import backend
from keras_glow.checks import check_boolean

_tf32 = None  # whether it is allowed; None until it is set


def allow_tf32(allowed: bool = True) -> None:
    """Sets whether GPUs may compute products of float32 in TensorFloat-32.

    TensorFloat-32 rounds the factors to 10 of the 23 bits of their mantissa. It
    is the default of TensorFlow and JAX for all products, and of Torch for
    convolutions. An image that goes through a flow in it does not come back
    exactly, so flows do without it unless this function allows it.

    On JAX this affects only the layers of flows, each when it is traced. On
    TensorFlow and Torch it is a setting of the process, for other models too:
    the first layer of a flow makes it where there is a GPU, unless this
    function was called before.

    To train faster on a GPU, `Glow(network_dtype="bfloat16")` gains more, and
    keeps exact whatever has to be exact.

    Args:
        allowed: bool.

    Raises:
        ValueError: if it is anything else.
    """
    global _tf32
    _tf32 = check_boolean("allowed", allowed)
    backend.set_tf32(_tf32)


def turn_off_tf32():
    """Turns TensorFloat-32 off, unless `allow_tf32` was called before."""
    if _tf32 is None and backend.has_gpu():
        allow_tf32(False)


def flow_precision():
    """Returns the context in which the layers of a flow compute."""
    return contextlib.nullcontext() if _tf32 else backend.exact_products()


# Parameters of glibc's `mallopt` by number: see its manual page, or <malloc.h>.
SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no mapping of its own for a large block
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: bytes free at the end that are kept
    -2: 64 * 2**20,  # M_TOP_PAD: bytes asked for at once; whole heaps are kept
}
# Environment variables with which users configure malloc themselves.
VARIABLES = ("GLIBC_TUNABLES", "MALLOC_")


@functools.cache
def keep_freed_memory() -> bool:
    """Makes the C library reuse memory that TensorFlow frees on a CPU.

    glibc hands the large blocks of activations back to the kernel at once,
    which may have to clear every page of them again for the next step: up to
    half of the training time on one machine, none of it on another
    (`benchmarks/allocator.py`). The price is unused memory between blocks, and
    that the process holds its peak until `return_freed_memory`.

    Returns whether it is kept: not on other backends and systems, and not if
    the environment has settings of its own.
    """
    if keras.backend.backend() != "tensorflow" or sys.platform != "linux":
        return False
    if any(name.startswith(VARIABLES) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(
        mallopt(name, value) for name, value in SETTINGS.items()
    )


def return_freed_memory():
    """Gives the kernel back the memory that `keep_freed_memory` has kept."""
    ctypes.CDLL(None).malloc_trim(0)
