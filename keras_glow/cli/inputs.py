"""The models, images and classes that options name.

It imports Keras where it is needed, and not before: see `cli.train`.
"""

import pathlib

from keras_glow.files.presets import PRESETS, preset_path


def model_file(model):
    """Returns the path of a model's file: `model` may be a preset's name."""
    if model in PRESETS:
        return preset_path(model)
    path = pathlib.Path(model)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist, and is no preset ({', '.join(PRESETS)})"
        )
    if path.suffix != ".keras":
        raise ValueError(f"{path} is expected to be a .keras file")
    return path


def sha256(model):
    """Returns the digest that a preset's file must have, None for others."""
    return PRESETS[model].sha256 if model in PRESETS else None


def load_model(model):
    """Loads a file, or a preset by its name."""
    path = model_file(model)
    from keras_glow import glow

    return glow.load_model(path, sha256(model))


def load_data(model, path, upscale):
    """Loads images for a model, and their labels, None without classes."""
    from keras_glow import images

    size, keys = common_size(model.image_shape), images.TEST_KEYS
    folder = pathlib.Path(path).is_dir()
    if size is None and folder:
        raise ValueError("Only models of square images read image files")
    if model.num_classes and folder:
        raise ValueError(
            f"A model with classes is expected to get an .npz file with labels "
            f"beside the images. Received: {path}"
        )
    channels = model.image_shape[-1]
    data = images.load_images(path, size, channels, keys, upscale=upscale)
    if data.shape[1:] != model.image_shape:
        raise ValueError(
            f"{path} is expected to hold images {model.image_shape}. "
            f"Received: {data.shape[1:]}"
        )
    return data, images.load_labels(path, keys) if model.num_classes else None


def load_files(model, files):
    """Loads an image from each file, for a model."""
    import numpy as np

    from keras_glow import images

    size, channels = common_size(model.image_shape), model.image_shape[-1]
    if size is None:
        raise ValueError("Only models of square images read image files")
    return np.stack([images.load_image(file, size, channels) for file in files])


def common_size(image_shape):
    """Returns the height and width of square images, None for others."""
    height, width, _ = image_shape
    return height if height == width else None


def labels_for(model, labels, count):
    """Returns the classes of `count` images, int `(count,)`, or None.

    `labels` is a list of one class, or of one for each image; or None, for a
    model without classes.
    """
    if not model.num_classes:
        if labels is None:
            return None
        raise ValueError("--labels is expected with a model with classes only")
    if labels is None or len(labels) not in (1, count):
        raise ValueError(
            f"--labels is expected to be one class 0..{model.num_classes - 1} "
            f"for all images, or {count} joined by commas, for each of them"
        )
    import numpy as np

    return np.resize(labels, count)
