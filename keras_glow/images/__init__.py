"""Image files in and out: folders, `.npz` files, grids.

May import `checks` and `files.atomic`.
"""

from keras_glow.images.folder import Report
from keras_glow.images.loading import (
    TEST_KEYS,
    check_data,
    image_grid,
    load_image,
    load_images,
    load_labels,
    save_grid,
    save_image,
)

__all__ = [
    "TEST_KEYS",
    "Report",
    "check_data",
    "image_grid",
    "load_image",
    "load_images",
    "load_labels",
    "save_grid",
    "save_image",
]
