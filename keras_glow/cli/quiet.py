"""Keeps off stderr what a backend says at its start, and nobody can act on."""

import os
import signal
import sys

# TensorFlow writes these before its log level counts.
NOISE = (b"WARNING: All log messages before absl::InitializeLog()", b"I0000 ")


def filter_stderr():
    """Takes lines of noise out of what libraries write to file descriptor 2.

    A process of its own reads them, so nothing is lost if this one crashes.
    What Python itself writes to `sys.stderr` does not go through it.
    `TF_CPP_MIN_LOG_LEVEL=0` shows everything.
    """
    if os.name != "posix" or os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        return
    reader, writer = os.pipe()
    if not os.fork():
        os.close(writer)
        _copy(reader)
    own = os.dup(2)
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    encoding = sys.stderr.encoding
    sys.stderr = open(own, "w", 1, encoding, errors="backslashreplace")


def _copy(reader):
    """Copies all but the noise to stderr, and ends the process with its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        with open(reader, "rb") as lines:
            for line in lines:
                if not line.startswith(NOISE):
                    os.write(2, line)
    finally:
        os._exit(0)
