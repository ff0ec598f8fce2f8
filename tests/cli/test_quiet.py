"""What libraries write to stderr, with and without the lines of no use."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
sys.argv[0] = "keras-glow"  # imports no backend
from keras_glow.cli.quiet import filter_stderr
filter_stderr()
os.write(2, b"I0000 00:00 port.cc] oneDNN is on\\n")
os.write(2, b"E0000 00:00 a.cc] an error\\nno newline at the end")
print("from Python \\ubaa8", file=sys.stderr)
os.abort() if "abort" in sys.argv else None
"""


@pytest.mark.skipif(os.name != "posix", reason="it is for POSIX alone")
@pytest.mark.parametrize("level, shown", [("1", False), ("0", True)])
@pytest.mark.parametrize("end", ["exit", "abort"])
def test_noise_is_left_out_and_nothing_else(level, shown, end):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
        "TF_CPP_MIN_LOG_LEVEL": level,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, end],
        capture_output=True,
        env=environment,
    )
    assert (done.returncode == 0) == (end == "exit")
    assert (b"oneDNN" in done.stderr) == shown
    for text in (b"an error", b"no newline at the end", b"from Python"):
        assert text in done.stderr
