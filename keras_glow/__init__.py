"""Glow for Keras 3: an image model with exact likelihood and exact inverse."""

import itertools
import pathlib
import sys

__version__ = "0.1.0"
__all__ = [
    "Glow",
    "ModelFileError",
    "TrainingDiverged",
    "allow_tf32",
    "callbacks",
    "conversion",
    "convert",
    "data",
    "distances",
    "images",
    "keep_freed_memory",
    "latent",
    "layers",
    "load_model",
    "losses",
    "presets",
    "schedules",
]


def _is_program():
    """Returns whether this process is the command line, not a user's script."""
    name = pathlib.Path(sys.argv[0] if sys.argv else "").name
    return name in ("keras-glow", "keras-glow.exe") or (
        ("-m", "keras_glow") in itertools.pairwise(sys.orig_argv)
    )


# The program answers `--help` and wrong uses without Keras. All others need all
# of it: `keras.saving.load_model` only knows classes that are imported.
if not _is_program():
    from keras_glow import (
        callbacks,
        conversion,
        data,
        images,
        latent,
        layers,
        losses,
        schedules,
    )
    from keras_glow.analysis import distances
    from keras_glow.backend.process import allow_tf32, keep_freed_memory
    from keras_glow.conversion import convert
    from keras_glow.files import presets
    from keras_glow.files.strict_reader import ModelFileError
    from keras_glow.glow import Glow, load_model
    from keras_glow.training.divergence import TrainingDiverged
