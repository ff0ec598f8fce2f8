"""Glow for Keras 3: an image model with exact likelihood and exact inverse."""

import os

# TensorFlow reads it when it is imported, and on processors without AVX-512
# leaves these convolutions out: training took 1.3 to 1.5 times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

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
from keras_glow.precision import allow_tf32

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
    "latent",
    "layers",
    "load_model",
    "losses",
    "presets",
    "schedules",
]
