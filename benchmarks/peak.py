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
    """Bytes, of what this process has imported; None if that has no GPU."""
    if "jax" in sys.modules:
        device = sys.modules["jax"].devices()[0]
        found = device.memory_stats() or {}  # None on CPUs
        return found.get("peak_bytes_in_use")
    if "tensorflow" in sys.modules:
        tf = sys.modules["tensorflow"]
        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    elif "torch" in sys.modules:
        cuda = sys.modules["torch"].cuda
        if cuda.is_available():
            return cuda.max_memory_allocated()
    return None
