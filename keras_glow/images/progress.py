"""One line that says how far a long task is."""

import shutil
import sys
import time

INTERVAL = 0.1  # seconds from one line on a terminal to the next
PAUSE = 60.0  # seconds from one line in a pipe to the next


class ProgressLine:
    """Shows how far a task is: one line of a terminal, written anew each time.

    It never takes more than one line. A pipe or a file gets a plain line a
    minute, with no control characters.

    Args:
        quiet: bool, whether to show nothing.
    """

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.terminal = sys.stdout.isatty()
        self.last = time.monotonic() if not self.terminal else 0.0

    def due(self):
        """Returns whether `show` would show anything by now."""
        pause = INTERVAL if self.terminal else PAUSE
        return not self.quiet and time.monotonic() - self.last >= pause

    def show(self, text):
        """Shows a text in place of the last, unless that was just now."""
        if not self.due():
            return
        self.last = time.monotonic()
        if self.terminal:
            self._write(text)
        else:
            print(text, flush=True)

    def print(self, text=""):
        """Prints a line that stays, or only takes the last one away."""
        if self.terminal and not self.quiet:
            self._write("")
        if text and not self.quiet:
            print(text, flush=True)

    def _write(self, text):
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:{width}}\r{text[:width]}", end="", flush=True)


def chunks(count, size, what, quiet=False):
    """Yields slices of so many of `count` things, and shows how far it is."""
    line = ProgressLine(quiet)
    for start in range(0, count, size):
        yield slice(start, start + size)
        line.show(f"{min(start + size, count)} of {count} {what}")
    line.print()
