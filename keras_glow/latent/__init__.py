"""Blends, edits, restores and judges images by their latents.

These functions work with any trained `Glow`, and take and return NumPy arrays.
`z` are latents as `model.encode` returns them, float `(batch, D)`, all levels,
finest first; `images` are integers 0..255, `(batch, height, width, channels)`.
"""

from keras_glow.latent.anomaly import anomaly_score
from keras_glow.latent.directions import apply_direction, attribute_direction
from keras_glow.latent.interpolation import (
    interpolate,
    path_weights,
    random_walk,
)
from keras_glow.latent.levels import apply_temperature, mix_levels
from keras_glow.latent.restoration import Convergence, inpaint, super_resolve
from keras_glow.latent.score import denoise, score

__all__ = [
    "Convergence",
    "anomaly_score",
    "apply_direction",
    "apply_temperature",
    "attribute_direction",
    "denoise",
    "inpaint",
    "interpolate",
    "mix_levels",
    "path_weights",
    "random_walk",
    "score",
    "super_resolve",
]
