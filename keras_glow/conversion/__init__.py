"""Converts Glows that other projects trained."""

from keras_glow.conversion.convert import FORMATS, convert, raw_latents

__all__ = ["FORMATS", "convert", "raw_latents"]
