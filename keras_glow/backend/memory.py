"""Linux: memory that is freed is kept for the next step, not handed back."""

import ctypes
import functools
import os
import sys

import keras

# Parameters of glibc's `mallopt`: see its manual page, or <malloc.h>.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
SETTINGS = {
    M_MMAP_MAX: 0,  # no mapping of its own for a large block
    M_TRIM_THRESHOLD: 2**31 - 1,  # bytes free at the end before they go back
    M_TOP_PAD: 64 * 2**20,  # bytes asked for at once; whole heaps are kept
}
# By which users choose for themselves.
VARIABLES = ("GLIBC_TUNABLES", "MALLOC_")


@functools.cache
def keep_freed_memory():
    """Has the C library keep what TensorFlow frees on a CPU, for reuse.

    TensorFlow takes the memory of every activation from `malloc`, and frees it
    within the step. glibc hands large blocks back to the kernel at once, which
    may have to clear every page of them again for the next step: up to half of
    the time of training on one machine, none of it on another
    (`benchmarks/allocator.py`). The price is memory that lies between two
    blocks, and that the process holds its peak until `return_freed_memory`: so
    a `Glow` that asks for less memory does without.

    It does nothing on other backends and systems, and nothing if the
    environment has settings of its own.

    Returns:
        Whether it did.
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
    """Hands back to the kernel what `keep_freed_memory`, if it did, kept."""
    ctypes.CDLL(None).malloc_trim(0)
