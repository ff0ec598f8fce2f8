"""What `keras-glow train` trains and validates on.

It imports Keras where it is needed, and not before: see `cli.train`.
"""

import argparse
import dataclasses
import functools
import os
import re
import typing
import warnings

from keras_glow.cli.inputs import (
    common_size,
    load_labels,
    read_classes,
    rows,
    write_classes,
)
from keras_glow.cli.options import option


def _share_or_path(text):
    """Parses the part of the images to hold out, or a path."""
    match = re.fullmatch(r"(\d+\.?\d*)%", text)
    if not match:
        return text
    if 0 < float(match[1]) < 100:
        return float(match[1]) / 100
    raise argparse.ArgumentTypeError(
        f"expected over 0% and under 100%, got {text!r}"
    )


VALIDATION = option(
    "--validation",
    type=_share_or_path,
    metavar="DATA",
    help="images that are not trained on; 10%% holds out that part of them",
)


class TrainingData(typing.NamedTuple):
    """Images, arrays, and dicts of what they are given: labels, context."""

    images: typing.Any
    given: dict
    validation: typing.Any = None  # None without any
    validation_given: dict = {}

    @staticmethod
    def targets(given):
        """Returns what stands beside images for `fit`."""
        from keras_glow.checks import Conditions

        return Conditions.to_targets(given.values())


def one_image(path):
    """Returns what is wrong with `path`, which holds one image."""
    return f"{path} is expected to hold images to train on, and holds one only"


def load_training_data(options, settings, out):
    """Loads what the options name, as the settings of a run say.

    The names of the classes of a folder are written into the run.

    Returns:
        `TrainingData`, and the settings with the number of classes.
    """
    from keras_glow import images

    load = functools.partial(
        images.load_images,
        channels=images.channels_of_folder(settings.bits, settings.grey),
        on_bad=options.on_bad,
        upscale=options.upscale,
        verbose=1,
        return_names=True,
        bits=settings.bits,
    )
    x, names = load(options.data, settings.size, cache=out / "images.npy")
    if len(x) < 2:
        raise ValueError(one_image(options.data))
    given, classes = {}, None
    if options.classes or settings.num_classes:
        known = read_classes(out) if settings.num_classes else None
        y, classes = load_labels(options.data, names, images.TRAIN_KEYS, known)
        settings = _with_classes(settings, options.data, y, classes)
        given["labels"] = y
        if classes and not known:
            write_classes(out, classes)
    else:
        _tell_of_folders(names)
    if settings.context:
        context = images.load_context(options.data, names, settings.context)
        given["context"] = context
        shape = list(context.shape[1:])
        settings = dataclasses.replace(settings, context_shape=shape)
    if settings.held_out:
        from keras_glow.images.split import held_out

        chosen = held_out(x, settings.held_out)
        data = TrainingData(
            x[~chosen], rows(given, ~chosen), x[chosen], rows(given, chosen)
        )
    elif options.validation:
        size, keys = common_size(x.shape[1:]), images.TEST_KEYS
        other, names = load(
            options.validation, size, keys=keys, cache=out / "validation.npy"
        )
        path, others = options.validation, {}
        if "labels" in given:
            others["labels"], _ = load_labels(path, names, keys, classes)
        if settings.context:
            others["context"] = images.load_context(
                path, names, settings.context
            )
        data = TrainingData(x, given, other, others)
        _warn_of_shared(data)
    else:
        data = TrainingData(x, given)
    print(f"{len(data.images)} images {data.images.shape[1:]}")
    if data.validation is not None:
        print(f"{len(data.validation)} images for validation")
    return data, settings


def _with_classes(settings, path, labels, classes):
    """Returns the settings of a run with as many classes as there are."""
    if classes is None and (
        labels.dtype.kind not in "iu" or labels.ndim != 1 or labels.min() < 0
    ):
        raise ValueError(
            f"The labels in {path} are expected to be integers from 0, one for "
            f"each image. Received: dtype={labels.dtype}, shape={labels.shape}"
        )
    count = len(classes or range(labels.max() + 1))
    if count < 2:
        raise ValueError(
            f"{path} is expected to hold images of two classes or more for "
            f"--classes. Received: {count}"
        )
    for number, name in enumerate(classes or ()):
        count_of_class = (labels == number).sum()
        print(f"class {number}: {name}, {count_of_class} images")
    return dataclasses.replace(settings, num_classes=count)


def _tell_of_folders(names):
    folders = {name.partition(os.sep)[0] for name in names or ()}
    if 1 < len(folders) and not folders.intersection(names):
        print(
            f"They lie in {len(folders)} folders: with --classes these would "
            "be classes"
        )


def _warn_of_shared(data):
    from keras_glow.images.split import count_shared

    count = count_shared(data.images, data.validation)
    if count:
        warnings.warn(
            f"{count} of {len(data.validation)} images for validation are "
            "trained on as well, so it says little about new images: "
            "--validation 10% holds out a part of DATA",
            stacklevel=2,
        )
