"""The models, images and classes that options name.

It imports Keras where it is needed, and not before: see `cli.train`.
"""

import json
import pathlib

from keras_glow.files.presets import (
    PRESETS,
    model_path,
    preset_path,
    preset_sha256,
)


def model_file(model):
    """Returns a model's file: `model` may name a preset, or a folder of one."""
    if model in PRESETS:
        return preset_path(model)
    path = model_path(model)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist, and is no preset ({', '.join(PRESETS)})"
        )
    if path.suffix != ".keras":
        raise ValueError(f"{path} is expected to be a .keras file")
    return path


def load_model(model):
    """Loads a file, or a preset by its name."""
    path = model_file(model)
    from keras_glow import glow

    return glow.load_model(path, preset_sha256(model))


def load_data(model, options, path=None):
    """Loads images for a model, what it is given with them, and names.

    The `options` are `model`, `data`, `upscale`, `on_bad` and `context`; a
    `path` takes the place of `data`. What is given is a dict of `labels` and
    `context`, without what the model does not take. Images of an `.npz` file
    have no names, None.
    """
    from keras_glow import images

    path, size = path or options.data, common_size(model.image_shape)
    keys = images.TEST_KEYS
    if size is None and pathlib.Path(path).is_dir():
        raise ValueError("Only models of square images read image files")
    data, names = images.load_images(
        path,
        size,
        model.image_shape[-1],
        keys,
        options.on_bad,
        options.upscale,
        return_names=True,
        bits=model.bits,
    )
    if data.shape[1:] != model.image_shape:
        raise ValueError(
            f"{path} is expected to hold images {model.image_shape}. "
            f"Received: {data.shape[1:]}"
        )
    if bool(model.context_shape) != bool(options.context):
        word = "given" if model.context_shape else "left out"
        raise ValueError(f"--context is expected to be {word} for this model")
    known = None
    if model.num_classes:
        known = read_classes(model_file(options.model).parent)
    given, classes = load_given(
        path, names, keys, model.num_classes, known, options.context
    )
    if classes and len(classes) != model.num_classes:
        raise ValueError(
            f"{path} is expected to hold a folder for each of "
            f"{model.num_classes} classes. Received: {len(classes)}"
        )
    return data, given, names


# The names of the classes of a model, in a file beside it.
CLASSES = "classes.json"


def load_given(path, names, keys, labels, classes, context):
    """Returns what images are given that `images.load_images` has read.

    Args:
        path: of the images.
        names: those of their files, None for an `.npz` file.
        keys: of the images in such a file.
        labels: whether they are given labels.
        classes: names of the classes, or None for the folders there are.
        context: see `images.load_context`; None for none.

    Returns:
        Dict of `labels` and `context`, and the names of the classes or None.
    """
    from keras_glow import images

    given, found = {}, None
    if labels and names is None:
        given["labels"] = images.load_labels(path, keys)
    elif labels:
        given["labels"], found = images.class_labels(names, classes)
    if context:
        given["context"] = images.load_context(path, names, context)
    return given, found


def read_classes(folder):
    """Returns the names of the classes of a run, None if they are unknown."""
    file = folder / CLASSES
    if not file.is_file():
        return None
    classes = json.loads(file.read_text())
    if not isinstance(classes, list) or not all(
        isinstance(name, str) for name in classes
    ):
        raise ValueError(f"{file} is expected to hold a list of names")
    return classes


def write_classes(folder, classes):
    """Writes the names of the classes of a run for `read_classes`."""
    from keras_glow.files.atomic import atomic_file

    with atomic_file(folder / CLASSES) as partial:
        pathlib.Path(partial).write_text(json.dumps(classes))


def read_context(text):
    """Returns the array of an .npy file, or of numbers joined by commas."""
    import numpy as np

    if text is None:
        return None
    try:
        if pathlib.Path(text).suffix == ".npy":
            return np.load(text, allow_pickle=False)
        return np.array(text.split(","), "float32")
    except (OSError, ValueError) as error:
        raise ValueError(f"--context {text} cannot be read: {error}") from None


def rows(given, chosen):
    """Returns a dict of some rows of each array of a dict."""
    return {name: array[chosen] for name, array in given.items()}


def load_files(model, files):
    """Loads an image from each file, for a model."""
    import numpy as np

    from keras_glow import images

    size, channels = common_size(model.image_shape), model.image_shape[-1]
    if size is None:
        raise ValueError("Only models of square images read image files")
    return np.stack(
        [images.load_image(f, size, channels, model.bits) for f in files]
    )


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


def given_for(model, options, count):
    """Returns what `count` images are given, by `--labels` and `--context`.

    It is a dict of arrays, as the methods of a model take them.
    """
    conditions = model.conditions
    labels = labels_for(model, options.labels, count)
    context = read_context(options.context)
    arrays = conditions.check_each_or_one(labels, context, count)
    return dict(zip(conditions.names(), arrays, strict=True))
