"""What is freed is kept: no page of it has to be cleared once more."""

import ctypes
import resource
import sys

import keras
import pytest
from helpers import random_images

from keras_glow import Glow
from keras_glow.backend import process as allocator
from keras_glow.training import trainable_flow

BYTES = 48 * 2**20  # of a large block; glibc maps those from 32 MiB on itself

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or keras.backend.backend() != "tensorflow",
    reason="only for TensorFlow on Linux",
)


def page_faults():
    """Takes a block, writes to every page of it, and gives it back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(BYTES)
    ctypes.memset(block, 1, BYTES)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_kept_until_it_is_returned():
    assert allocator.keep_freed_memory()
    pages = BYTES // resource.getpagesize()
    page_faults()
    assert page_faults() < pages / 100
    allocator.return_freed_memory()
    assert page_faults() > pages / 2


@pytest.mark.parametrize("memory", ["store", "remat"])
def test_a_model_that_asks_for_less_keeps_nothing(memory, monkeypatch):
    calls = []
    for name in ("keep_freed_memory", "return_freed_memory"):
        monkeypatch.setattr(
            trainable_flow, name, lambda name=name: calls.append(name) or 1
        )
    model = Glow((4, 4, 1), levels=1, depth=1, width=2, memory=memory)
    model.compile("sgd")
    model.log_prob(random_images(4, (4, 4, 1)))
    assert not calls  # a model in use changes nothing
    model.fit(random_images(4, (4, 4, 1)), verbose=0)
    kept = ["keep_freed_memory", "return_freed_memory"]
    assert calls == (kept if memory == "store" else [])


@pytest.mark.parametrize("name", ["MALLOC_TOP_PAD_", "GLIBC_TUNABLES"])
def test_settings_of_the_user_stand(name, monkeypatch):
    monkeypatch.setenv(name, "")
    calls = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", calls.append)
    assert not allocator.keep_freed_memory.__wrapped__()
    assert not calls
