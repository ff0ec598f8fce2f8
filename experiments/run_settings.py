"""The settings of `keras-glow train` as options of an experiment."""

import argparse
import dataclasses
import typing

from keras_glow.cli.options import DEPTH
from keras_glow.cli.settings import Settings, default_settings

# Of reading images, and of beginning with another model.
NOT_HERE = ("size", "grey", "start", "num_classes")


def add_settings(parser, *left_out):
    """Adds an option for each setting of a run but those left out."""
    for field in dataclasses.fields(Settings):
        if field.name in (*NOT_HERE, *left_out):
            continue
        name = "--" + field.name.replace("_", "-")
        if field.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        elif field.name == "depth":
            kind = {"type": DEPTH}
        else:
            kind = {"type": (*typing.get_args(field.type), field.type)[0]}
        parser.add_argument(name, default=argparse.SUPPRESS, **kind)


def given_settings(options, defaults, **fixed):
    """The `Settings` of a run: what is given goes before the defaults.

    Args:
        options: as parsed.
        defaults: dict of what the experiment has for defaults.
        **fixed: settings that are no options.
    """
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {n: v for n, v in vars(options).items() if n in names}
    if given.get("minutes"):  # they say when it ends
        defaults = {**defaults, "epochs": default_settings(1.0).epochs}
    return Settings(**{**defaults, **given, **fixed})
