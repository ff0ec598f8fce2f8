"""Types of options, and the options that several commands share."""

import argparse
import math

from keras_glow.checks import MAX_WEIGHTS_SEED


def number(kind, low, high=None):
    """Returns an argparse type: a finite number within limits."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if (
            value is None
            or not low <= value < math.inf
            or (high is not None and value > high)
        ):
            limits = f">= {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(
                f"expected a number {limits}, got {text!r}"
            )
        return value

    return parse


COUNT = number(int, 1)
SEED = number(int, 0, MAX_WEIGHTS_SEED)
BITS = number(int, 1, 8)


def temperature(text):
    """Parses one number, or several joined by commas, one per level."""
    values = [number(float, 0)(part) for part in text.split(",")]
    return values[0] if len(values) == 1 else values


def classes(text):
    """Parses one class, or several joined by commas."""
    return [number(int, 0)(part) for part in text.split(",")]


def add_command(commands, name, run, help):
    """Adds a command, and returns its parser.

    Args:
        commands: the subparsers of the program.
        name: str, of the command.
        run: function of the parsed options that does the job.
        help: str.
    """
    command = commands.add_parser(
        name,
        help=help,
        description=help,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def add_data(command, key):
    """Adds DATA: images in a folder, or in an `.npz` file under a key."""
    command.add_argument(
        "data", metavar="DATA", help=f"folder, or .npz with images or {key}"
    )


def add_json(command):
    """Adds --json."""
    command.add_argument("--json", action="store_true", help="print JSON")


def add_labels(command):
    """Adds --labels."""
    command.add_argument(
        "--labels",
        type=classes,
        help="of a model with classes: one for all images, or one for each, "
        "joined by commas",
    )


def add_model(command):
    """Adds MODEL: a file, or a preset."""
    command.add_argument(
        "model", metavar="MODEL", help=".keras file, or a preset's name"
    )


def add_upscale(command):
    """Adds --upscale."""
    command.add_argument(
        "--upscale",
        action="store_true",
        help="enlarge images of a folder that are too small",
    )
