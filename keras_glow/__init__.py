"""Glow for Keras 3: an image model with exact likelihood and exact inverse."""

from keras_glow import (
    callbacks,
    conversion,
    data,
    distances,
    images,
    latent,
    layers,
    losses,
    presets,
    schedules,
)
from keras_glow.conversion import convert
from keras_glow.divergence import TrainingDiverged
from keras_glow.glow import Glow
from keras_glow.loading import ModelFileError, load_model

__version__ = "0.1.0"
__all__ = [
    "Glow",
    "ModelFileError",
    "TrainingDiverged",
    "callbacks",
    "conversion",
    "convert",
    "data",
    "distances",
    "images",
    "latent",
    "layers",
    "load_model",
    "losses",
    "presets",
    "schedules",
]
