"""The program `keras-glow`: its commands, and how it fails."""

import argparse
import gc
import os
import re
import sys
import warnings

from keras_glow import __version__
from keras_glow.cli import latents, models, train
from keras_glow.cli.completion import completion
from keras_glow.cli.prepare import prepare
from keras_glow.cli.quiet import filter_stderr

COMMANDS = (
    prepare,
    train.check_data,
    train.train,
    models.sample,
    models.evaluate,
    models.score,
    models.reconstruct,
    latents.interpolate,
    latents.walk,
    latents.directions,
    models.info,
    models.convert,
    models.export,
    models.doctor,
    models.demo,
    models.presets,
    completion,
)


def console():
    """Runs the command of this process, and returns its exit code."""
    filter_stderr()
    # TensorFlow would print what it does with the processor; its warnings stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    if sys.argv[1:2] == ["train"]:
        # TensorFlow leaves oneDNN out on processors without AVX-512, and then
        # trains 1.3 to 1.5 times slower, unless this is set before its import.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    warnings.formatwarning = _one_line_warning
    code = main()
    # TensorFlow complains of datasets that only the end of the process deletes.
    gc.collect()
    return code


def _one_line_warning(message, *arguments):
    return f"keras-glow: warning: {message}\n"


def main(arguments=None):
    """Runs one command, by default that of the process.

    Returns the exit code: 0 on success, 1 on failure, 130 if it was
    interrupted. Wrong use raises SystemExit(2).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Not every console can show the name of every file.
            stream.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except Exception as error:
        from keras_glow.checks import one_line  # which imports NumPy

        # Pillow, h5py and the backends fail with many types of exception.
        text = _with_options(one_line(error), options)
        print(f"keras-glow: error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"keras-glow: interrupted. {interrupt}", file=sys.stderr)
        return 130
    return 0


def _with_options(text, options):
    """Returns an error of Python's with the options of the command instead."""
    command = options.run.__name__.replace("_", "-")
    usage = options.commands[command].format_usage()
    for flag in re.findall("--[a-z][a-z-]*", usage):
        argument = flag[2:].replace("-", "_")
        text = text.replace(f"`{argument}`", flag)
    return text.replace('on_bad="skip"', "--on-bad skip")


class _Parser(argparse.ArgumentParser):
    """Reports wrong use in one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


def _parser():
    parser = _Parser(
        prog="keras-glow",
        description="Train a Glow on your images, and sample from it.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    parser.set_defaults(commands=commands.choices)
    return parser
