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
    load_given,
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
    """Images, arrays, and what stands beside each for `fit`."""

    images: typing.Any
    targets: typing.Any
    validation: typing.Any = None  # None without any
    validation_targets: typing.Any = None


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
    from keras_glow.checks import Conditions
    from keras_glow.images.split import count_shared, held_out

    load = functools.partial(
        images.load_images,
        channels=images.channels_of_folder(settings.bits, settings.grey),
        on_bad=settings.on_bad,
        upscale=settings.upscale,
        verbose=1,
        return_names=True,
        bits=settings.bits,
    )
    x, names = load(options.data, settings.size, cache=out / "images.npy")
    if len(x) < 2:
        raise ValueError(one_image(options.data))
    classes, context = None, settings.context
    if settings.num_classes:
        classes = read_classes(out)
    labels = options.classes or settings.num_classes
    given, found = load_given(
        options.data, names, images.TRAIN_KEYS, labels, classes, context
    )
    if labels:
        settings = _with_classes(settings, options.data, given["labels"], found)
        if found and not classes:
            write_classes(out, found)
    else:
        _tell_of_folders(names)
    if context:
        shape = list(given["context"].shape[1:])
        settings = dataclasses.replace(settings, context_shape=shape)
    other, others = None, {}
    if settings.held_out:
        chosen = held_out(x, settings.held_out)
        other, others = x[chosen], rows(given, chosen)
        x, given = x[~chosen], rows(given, ~chosen)
    elif options.validation:
        path, size = options.validation, common_size(x.shape[1:])
        keys, cache = images.TEST_KEYS, out / "validation.npy"
        other, names = load(path, size, keys=keys, cache=cache)
        others, _ = load_given(path, names, keys, labels, found, context)
        _warn_of_shared(count_shared(x, other), len(other))
    print(f"{len(x)} images {x.shape[1:]}")
    if other is not None:
        print(f"{len(other)} images for validation")
    targets, other_targets = (
        Conditions.to_targets(each.values()) for each in (given, others)
    )
    return TrainingData(x, targets, other, other_targets), settings


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


def _warn_of_shared(count, of):
    if count:
        warnings.warn(
            f"{count} of {of} images for validation are trained on as well, so "
            "it says little about new images: --validation 10% holds out a "
            "part of DATA",
            stacklevel=2,
        )
