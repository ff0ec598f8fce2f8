"""Glow for Keras 3: an image model with exact likelihood and exact inverse."""

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
