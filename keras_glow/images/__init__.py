"""Reads image files, folders and `.npz` files, and writes images and grids.

May import `checks` and `files.atomic`.
"""

from keras_glow.images.attributes import (
    class_labels,
    load_attributes,
    load_context,
)
from keras_glow.images.grid import (
    heat_map,
    image_grid,
    png_bytes,
    save_animation,
    save_grid,
    save_image,
    shades,
)
from keras_glow.images.loading import (
    channels_of_folder,
    check_data,
    load_image,
    load_images,
)
from keras_glow.images.npz import TEST_KEYS, TRAIN_KEYS, load_labels
from keras_glow.images.report import Report

__all__ = [
    "TEST_KEYS",
    "TRAIN_KEYS",
    "Report",
    "channels_of_folder",
    "check_data",
    "class_labels",
    "heat_map",
    "image_grid",
    "load_attributes",
    "load_image",
    "load_images",
    "load_context",
    "load_labels",
    "png_bytes",
    "save_animation",
    "save_grid",
    "save_image",
    "shades",
]
