"""The commands on images to train on: `check-data` and `train`."""

import dataclasses
import functools
import json
import pathlib

from keras_glow import images
from keras_glow.backend.devices import devices
from keras_glow.cli import run
from keras_glow.cli.inputs import common_size
from keras_glow.cli.options import (
    BITS,
    COUNT,
    SEED,
    add_command,
    add_data,
    add_json,
    add_upscale,
    number,
)
from keras_glow.layers.flow_step import COUPLINGS, PERMUTATIONS


def add_check_data(commands):
    """Adds `check-data`."""
    command = add_command(
        commands,
        "check-data",
        _check_data,
        "Report every file that cannot be trained on, and what is done to "
        "those that can.",
    )
    add_data(command, "x_train")
    command.add_argument(
        "--size", type=COUNT, help="height and width to train at"
    )
    add_upscale(command)
    add_json(command)


def _check_data(options):
    report = images.check_data(
        options.data,
        options.size,
        upscale=options.upscale,
        verbose=0 if options.json else 1,
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
        raise ValueError(report.problem() or _one_image(options.data))


def _one_image(path):
    return f"{path} is expected to hold images to train on, and holds one only"


def add_train(commands):
    """Adds `train`, with the defaults of `Settings`."""
    command = add_command(
        commands,
        "train",
        _train,
        "Train a model on a folder of images or an .npz file; leaves "
        "model.keras, history.csv and samples/ in RUN.",
    )
    add_data(command, "x_train")
    add = command.add_argument
    add("--out", metavar="RUN", default="run", help="folder of the run")
    add("--validation", metavar="DATA", help="images that are not trained on")
    add(
        "--resume",
        action="store_true",
        help="go on with the run in RUN, if any",
    )
    add("--epochs", type=COUNT)
    add("--batch-size", type=COUNT)
    add("--size", type=COUNT, help="height and width to resize to")
    add("--grey", action="store_true", help="read a folder as grey images")
    add(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="what to do about images that cannot be used",
    )
    add_upscale(command)
    add("--flip", action="store_true", help="mirror half of the images")
    _add_architecture(add)
    _add_optimisation(add)
    add("--seed", type=SEED)
    add(
        "--devices",
        type=COUNT,
        default=1,
        help="of this machine that share each batch, on TensorFlow and JAX",
    )
    command.set_defaults(**dataclasses.asdict(run.Settings()))


def _add_architecture(add):
    add("--levels", type=COUNT)
    add("--depth", type=COUNT, help="steps of flow in a level")
    add("--width", type=COUNT, help="of the coupling networks")
    add("--permutation", choices=sorted(PERMUTATIONS))
    add("--coupling", choices=sorted(COUPLINGS))
    add("--bits", type=BITS, help="per subpixel")


def _add_optimisation(add):
    add(
        "--learning-rate",
        type=number(float, 0),
        help="the highest: it falls by half a cosine",
    )
    add("--warmup", type=number(int, 0), help="steps up to it")
    add("--clip", type=number(float, 0), help="gradient norm; 0: none")
    add(
        "--ema",
        type=number(float, 0, 0.99999),
        help="momentum of the averaged weights; 0 for none",
    )
    add(
        "--network-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the coupling networks while training",
    )


def _train(options):
    out = pathlib.Path(options.out)
    if out.resolve() == pathlib.Path(options.data).resolve():
        raise ValueError(
            f"--out is expected to be another folder than the images in {out}"
        )
    if run.is_run(out) != options.resume:
        if not options.resume:
            raise ValueError(
                f"{out} holds a run already: go on with it by --resume, or "
                "choose another folder"
            )
        print(f"{out} holds no run yet: starting anew")
    load = functools.partial(
        images.load_images,
        channels=1 if options.grey else 3,
        on_bad=options.on_bad,
        upscale=options.upscale,
        verbose=1,
    )
    train_images = load(options.data, options.size, cache=out / "images.npy")
    if len(train_images) < 2:
        raise ValueError(_one_image(options.data))
    print(f"{len(train_images)} images {train_images.shape[1:]}")
    validation = None
    if options.validation:
        validation = load(
            options.validation,
            common_size(train_images.shape[1:]),
            keys=images.TEST_KEYS,
            cache=out / "validation.npy",
        )
        print(f"{len(validation)} images for validation")
    settings = run.Settings(
        **{
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(run.Settings)
        }
    )
    with devices(options.devices):
        run.train(out, train_images, validation, settings)
    print(out / "model.keras")
