"""The commands on images to train on: `check-data` and `train`.

What needs NumPy or Keras is imported where it is used: help and wrong uses do
without.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import time

from keras_glow.cli.options import (
    ANY_BITS,
    ANY_ON_BAD,
    ANY_UPSCALE,
    COUNT,
    DEPTH,
    JSON,
    SEED,
    TRAIN_DATA,
    UPSCALE,
    command,
    number,
    option,
)
from keras_glow.cli.settings import (
    Settings,
    check_size,
    default_settings,
    fitted_to,
)
from keras_glow.cli.training_data import (
    VALIDATION,
    load_training_data,
    one_image,
)
from keras_glow.flow.choices import COUPLINGS, NETWORKS, PERMUTATIONS


@command(
    TRAIN_DATA,
    option("--size", type=COUNT, help="height and width to train at"),
    option("--bits", default=8, **ANY_BITS),
    UPSCALE,
    JSON,
)
def check_data(options):
    """Report files that cannot be trained on, and what becomes of others."""
    from keras_glow import images

    report = images.check_data(
        options.data,
        options.size,
        channels=images.channels_of_folder(options.bits),
        upscale=options.upscale,
        verbose=0 if options.json else 1,
        bits=options.bits,
    )
    if options.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        print("\n".join(report.lines()))
    if report.bad:
        raise ValueError(
            f"{len(report.bad)} files in {options.data} cannot be used"
        )
    if report.images < 2:
        raise ValueError(report.problem() or one_image(options.data))


SETTINGS = dataclasses.asdict(Settings())


def _setting(flag, **arguments):
    """Returns an option that is a setting of the run if it is given."""
    name = flag.removeprefix("--").replace("-", "_")
    default = SETTINGS[name]
    help = arguments.get("help", "")
    if default not in (None, False) and "default: " not in help:
        arguments["help"] = f"{help} (default: {default})".strip()
    return option(flag, default=argparse.SUPPRESS, **arguments)


@command(
    TRAIN_DATA,
    option("--out", metavar="RUN", default="run", help="folder of the run"),
    VALIDATION,
    option(
        "--classes",
        action="store_true",
        help="learn each class: that of an image is the outermost folder in "
        "DATA that it lies in, or its label in an .npz file",
    ),
    _setting(
        "--context",
        metavar="KEY|CSV",
        help="learn what images are given something that is known of each: an "
        "array in the .npz file or, for a folder, a table of file names and "
        "numbers",
    ),
    option(
        "--resume",
        action="store_true",
        help="go on with the run in RUN, if any",
    ),
    option(
        "--from",
        dest="start",
        metavar="MODEL",
        default=argparse.SUPPRESS,
        help="begin with the weights and the architecture of a .keras file or "
        "a preset; --size may be another",
    ),
    _setting(
        "--epochs",
        type=COUNT,
        help="times that each image is seen; default: 20, or as many as 200 "
        "steps take",
    ),
    _setting(
        "--minutes",
        type=number(float, 0.01),
        help="train for this time instead, with other defaults than these, "
        "chosen for a CPU or a GPU",
    ),
    _setting("--batch-size", type=COUNT, help="images in a step"),
    _setting("--size", type=COUNT, help="height and width to resize to"),
    _setting(
        "--grey", action="store_true", help="read a folder as grey images"
    ),
    _setting("--on-bad", **ANY_ON_BAD),
    _setting("--upscale", **ANY_UPSCALE),
    _setting("--flip", action="store_true", help="mirror half of the images"),
    _setting(
        "--levels",
        type=number(int, 1, 30),
        help="times that the size is halved",
    ),
    _setting(
        "--depth",
        type=DEPTH,
        help="steps of flow in a level, or in each, as in 6,4,2",
    ),
    _setting("--width", type=COUNT, help="of the coupling networks"),
    _setting("--network", choices=NETWORKS, help="kind of coupling network"),
    _setting("--blocks", type=COUNT, help="of residual networks"),
    _setting(
        "--dropout",
        type=number(float, 0, 0.99),
        help="in residual networks, while training",
    ),
    _setting(
        "--permutation", choices=PERMUTATIONS, help="what mixes the channels"
    ),
    _setting(
        "--whiten",
        action=argparse.BooleanOptionalAction,
        help="start the first 1x1 convolution of each level with what takes "
        "the correlations out (default: with --minutes)",
    ),
    _setting(
        "--coupling", choices=COUPLINGS, help="with a scale, or without one"
    ),
    _setting("--bits", **ANY_BITS),
    _setting(
        "--learning-rate",
        type=number(float, 0),
        help="the highest: it falls by half a cosine",
    ),
    _setting("--beta-2", type=number(float, 0, 0.99999), help="of Adam"),
    _setting(
        "--warmup",
        type=number(int, 0),
        help="steps up to it; default: a tenth of all, at most 300",
    ),
    _setting("--clip", type=number(float, 0), help="gradient norm; 0: none"),
    _setting(
        "--ema",
        type=number(float, 0, 0.99999),
        help="momentum of the averaged weights; 0 for none",
    ),
    _setting(
        "--network-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the coupling networks while training",
    ),
    _setting("--seed", type=SEED, help="of weights and order of the images"),
    option(
        "--tensorboard",
        action="store_true",
        help="write RUN/tensorboard too, for the package tensorboard",
    ),
    option(
        "--devices",
        type=COUNT,
        default=1,
        help="of this machine that share each batch, on TensorFlow and JAX",
    ),
)
def train(options):
    """Train a model on a folder of images or an .npz file.

    Leaves model.keras, best.keras, history.csv, curve.png and samples/ in RUN.
    """
    from keras_glow.backend import computes_bfloat16, has_gpu
    from keras_glow.backend.devices import devices
    from keras_glow.cli import follow, run

    out = pathlib.Path(options.out)
    if out.resolve() == pathlib.Path(options.data).resolve():
        raise ValueError(
            f"--out is expected to be another folder than the images in {out}"
        )
    share = options.validation
    if share is not None:
        # That of a run that goes on need not be given again.
        options.held_out = share if isinstance(share, float) else 0.0
    begun = run.is_run(out)
    if begun and not options.resume:
        raise ValueError(
            f"{out} holds a run already: go on with it by --resume, or choose "
            "another folder"
        )
    if options.resume and not begun:
        print(f"{out} holds no run yet: starting anew")
    callbacks = []
    if options.tensorboard:
        callbacks.append(follow.tensorboard(out / "tensorboard"))
    given = {
        name: value for name, value in vars(options).items() if name in SETTINGS
    }
    # A run goes on with its own settings, unless others are given.
    if begun:
        settings = run.earlier_settings(out)
    else:
        settings = default_settings(
            given.get("minutes"), has_gpu(), computes_bfloat16()
        )
        if "start" in given:
            settings = run.started_settings(settings, given)
    settings = dataclasses.replace(settings, **given)
    check_size(settings)
    data, settings = load_training_data(options, settings, out)
    if not begun:
        settings = fitted_to(settings, given, len(data.images))
        settings = run.with_quicker_networks(settings, given, data.images)
    start = time.monotonic()
    with devices(options.devices):
        run.train(
            out,
            data.images,
            data.validation,
            settings,
            callbacks,
            data.targets,
            data.validation_targets,
        )
    print(follow.summary(out / "history.csv", time.monotonic() - start))
    model = shlex.quote(str(out / "model.keras"))
    more = " --labels 0" if settings.num_classes else ""
    more += " --context ..." if settings.context else ""
    print(f"Next: keras-glow sample {model}{more} --grid samples.png")
    print(f"      keras-glow demo --model {model}")
    print(out / "model.keras")
