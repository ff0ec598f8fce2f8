"""The most memory that this process has had: of the GPU, if it works on one."""

import resource
import sys


def peak():
    """MiB, in use at once on the first GPU, or resident where there is none."""
    in_use = _gpu_peak()
    if in_use is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return in_use / 2**20


def _gpu_peak():
    """Bytes, of what does the work in this process; None if on no GPU."""
    library = _library()
    if library == "jax":
        device = sys.modules["jax"].devices()[0]
        found = device.memory_stats() or {}  # None on CPUs
        return found.get("peak_bytes_in_use")
    if library == "tensorflow":
        tf = sys.modules["tensorflow"]
        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if library == "torch":
        cuda = sys.modules["torch"].cuda
        if cuda.is_available():
            return cuda.max_memory_allocated()
    return None


def _library():
    """The backend of Keras, or else what is imported.

    Keras and others import libraries that they do not compute with.
    """
    if "keras" in sys.modules:
        return sys.modules["keras"].backend.backend()
    names = ("jax", "tensorflow", "torch")
    return next((name for name in names if name in sys.modules), None)
