"""Watches a call: what it costs, and what it does to the system."""

import contextlib
import ctypes
import pathlib
import sys
import tempfile
import time
import typing

STATUS = pathlib.Path("/proc/self/status")
# What runs code or reaches out, by the names of Python's audit events.
FORBIDDEN = (
    "code.__new__",
    "compile",
    "ctypes.",
    "exec",
    "ftplib.",
    "http.",
    "import",
    "marshal.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pickle.",
    "pty.spawn",
    "socket.",
    "subprocess.",
    "urllib.",
    "webbrowser.",
)
# What changes files; the first argument is a path.
CHANGES = ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename")
CHANGES += ("os.rmdir", "os.symlink", "os.truncate", "shutil.")

_watching = []


def _hook(event, arguments):
    if _watching:
        _watching[-1](event, arguments)


class Watched(typing.NamedTuple):
    """Processor time, growth of resident memory at its peak, and misdeeds."""

    seconds: float
    megabytes: float
    misdeeds: list


def run(function):
    """Calls a function: its result, or its exception, and a `Watched`.

    Resident memory is measured on Linux with glibc; elsewhere it is nan.
    """
    misdeeds = []
    outside = _writes_outside(tempfile.gettempdir(), misdeeds)
    before = _resident("VmRSS", reset=True)
    start = time.process_time()
    with _audited(outside):
        try:
            result = function()
        except Exception as error:
            result = error
    seconds = time.process_time() - start
    growth = (_resident("VmHWM") - before) / 1024
    return result, Watched(seconds, growth, misdeeds)


@contextlib.contextmanager
def _audited(function):
    if not hasattr(_hook, "added"):  # a hook can never be taken away
        sys.addaudithook(_hook)
        _hook.added = True
    _watching.append(function)
    try:
        yield
    finally:
        _watching.pop()


def _writes_outside(folder, misdeeds):
    def look(event, arguments):
        path = str(arguments[0]) if arguments else ""
        writes = event.startswith(CHANGES)
        if event == "open":
            _, mode, flags = arguments
            writes = set(mode or "") & set("wax+") or flags & 3
        if event.startswith(FORBIDDEN) or (
            writes and not path.startswith(folder)
        ):
            misdeeds.append(f"{event} {arguments}"[:200])

    return look


def _resident(name, reset=False):
    """Kilobytes; the peak of a process can be reset on Linux."""
    try:
        if reset:
            # Memory that is free but still held would hide what is taken.
            ctypes.CDLL(None).malloc_trim(0)
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        lines = STATUS.read_text().splitlines()
        return next(int(s.split()[1]) for s in lines if s.startswith(name))
    except (OSError, AttributeError, TypeError):
        return float("nan")
