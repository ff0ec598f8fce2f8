"""The commands on images to train on: `check-data` and `train`.

What needs NumPy or Keras is imported where it is used: help and wrong uses do
without.
"""

import dataclasses
import functools
import json
import pathlib
import shlex
import time

from keras_glow.cli.options import (
    BITS,
    COUNT,
    JSON,
    SEED,
    TRAIN_DATA,
    UPSCALE,
    command,
    number,
    option,
)
from keras_glow.cli.settings import Settings
from keras_glow.flow.choices import COUPLINGS, PERMUTATIONS


def _one_image(path):
    return f"{path} is expected to hold images to train on, and holds one only"


def _check_data(options):
    from keras_glow import images

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


CHECK_DATA = command(
    "check-data",
    _check_data,
    "Report every file that cannot be trained on, and what is done to those "
    "that can.",
    TRAIN_DATA,
    option("--size", type=COUNT, help="height and width to train at"),
    UPSCALE,
    JSON,
)


def _train(options):
    from keras_glow import images
    from keras_glow.backend.devices import devices
    from keras_glow.cli import follow, inputs, run

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
    callbacks = []
    if options.tensorboard:
        callbacks.append(follow.tensorboard(out / "tensorboard"))
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
            inputs.common_size(train_images.shape[1:]),
            keys=images.TEST_KEYS,
            cache=out / "validation.npy",
        )
        print(f"{len(validation)} images for validation")
    settings = Settings(
        **{
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(Settings)
        }
    )
    start = time.monotonic()
    with devices(options.devices):
        run.train(out, train_images, validation, settings, callbacks)
    print(follow.summary(out / "history.csv", time.monotonic() - start))
    model = shlex.quote(str(out / "model.keras"))
    print(f"Next: keras-glow sample {model} --grid samples.png")
    print(f"      keras-glow demo --model {model}")
    print(out / "model.keras")


TRAIN = command(
    "train",
    _train,
    "Train a model on a folder of images or an .npz file; leaves model.keras, "
    "best.keras, history.csv, curve.png and samples/ in RUN.",
    TRAIN_DATA,
    option("--out", metavar="RUN", default="run", help="folder of the run"),
    option(
        "--validation", metavar="DATA", help="images that are not trained on"
    ),
    option(
        "--resume",
        action="store_true",
        help="go on with the run in RUN, if any",
    ),
    option("--epochs", type=COUNT),
    option("--batch-size", type=COUNT),
    option("--size", type=COUNT, help="height and width to resize to"),
    option("--grey", action="store_true", help="read a folder as grey images"),
    option(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="what to do about images that cannot be used",
    ),
    UPSCALE,
    option("--flip", action="store_true", help="mirror half of the images"),
    option("--levels", type=COUNT),
    option("--depth", type=COUNT, help="steps of flow in a level"),
    option("--width", type=COUNT, help="of the coupling networks"),
    option("--permutation", choices=PERMUTATIONS),
    option("--coupling", choices=COUPLINGS),
    option("--bits", type=BITS, help="per subpixel"),
    option(
        "--learning-rate",
        type=number(float, 0),
        help="the highest: it falls by half a cosine",
    ),
    option("--warmup", type=number(int, 0), help="steps up to it"),
    option("--clip", type=number(float, 0), help="gradient norm; 0: none"),
    option(
        "--ema",
        type=number(float, 0, 0.99999),
        help="momentum of the averaged weights; 0 for none",
    ),
    option(
        "--network-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the coupling networks while training",
    ),
    option("--seed", type=SEED),
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
    lambda parser: parser.set_defaults(**dataclasses.asdict(Settings())),
)
