"""The command line: `keras-glow`."""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import sys

import keras
import numpy as np

from keras_glow import __version__, images, latent
from keras_glow.backend import devices as replicas
from keras_glow.checks import MAX_WEIGHTS_SEED
from keras_glow.cli import demo
from keras_glow.cli import run as training
from keras_glow.conversion import FORMATS, convert
from keras_glow.files.presets import PRESETS, load_preset, preset_path
from keras_glow.files.strict_reader import load_model, training_steps
from keras_glow.layers.flow_step import COUPLINGS, PERMUTATIONS

# Names of `export` to those of `keras.Model.export`.
EXPORTS = {"savedmodel": "tf_saved_model", "litert": "litert", "onnx": "onnx"}


def main(arguments=None):
    """Runs one command.

    Args:
        arguments: list of str, or None for those of the process.

    Returns:
        The exit code: 0 if it did the job, 1 if not, 130 if it was interrupted.
        Wrong use raises SystemExit(2).
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except Exception as error:
        # Pillow, h5py and the backends fail by many types of exception.
        message = str(error).strip().splitlines() or [type(error).__name__]
        print(f"keras-glow: error: {message[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"keras-glow: interrupted. {interrupt}", file=sys.stderr)
        return 130
    return 0


# The commands


def _train(options):
    channels = 1 if options.grey else 3
    out = pathlib.Path(options.out)
    if out.resolve() == pathlib.Path(options.data).resolve():
        raise ValueError(
            f"--out is expected to be another folder than the images in {out}"
        )
    if training.is_run(out) != options.resume:
        if not options.resume:
            raise ValueError(
                f"{out} holds a run already: go on with it by --resume, or "
                "choose another folder"
            )
        print(f"{out} holds no run yet: starting anew")
    reading = {
        "channels": channels,
        "on_bad": options.on_bad,
        "upscale": options.upscale,
        "verbose": 1,
    }
    train_images = images.load_images(
        options.data, options.size, cache=out / "images.npy", **reading
    )
    if len(train_images) < 2:
        raise ValueError(_one_image(options.data))
    print(f"{len(train_images)} images {train_images.shape[1:]}")
    validation = None
    if options.validation:
        validation = images.load_images(
            options.validation,
            _size(train_images.shape[1:]),
            keys=images.TEST_KEYS,
            cache=out / "validation.npy",
            **reading,
        )
        print(f"{len(validation)} images for validation")
    settings = training.Settings(
        **{
            field.name: getattr(options, field.name)
            for field in dataclasses.fields(training.Settings)
        }
    )
    with replicas.devices(options.devices):
        training.train(options.out, train_images, validation, settings)
    print(pathlib.Path(options.out) / "model.keras")


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


def _sample(options):
    model = _load(options.model)
    labels = _labels(model, options, options.count, needed=False)
    samples = model.sample(
        options.count, options.temperature, options.seed, labels
    )
    if options.grid:
        images.save_grid(samples, options.grid)
        print(options.grid)
    if options.out:
        for i, sample in enumerate(samples):
            path = pathlib.Path(options.out) / f"sample_{i:04d}.png"
            images.save_image(sample, path)
        print(options.out)


def _evaluate(options):
    model = _load(options.model)
    data, labels = _load_for(model, options.data, options.upscale)
    chunk = 256
    progress = keras.utils.Progbar(
        len(data), unit_name="image", verbose=0 if options.json else 1
    )
    values = []
    for start in range(0, len(data), chunk):
        # A seed of its own for each chunk, or their noise would be the same.
        values.append(
            model.bits_per_dim(
                data[start : start + chunk],
                draws=options.draws,
                seed=options.seed + start,
                labels=_rows(labels, slice(start, start + chunk)),
            )
        )
        progress.update(min(start + chunk, len(data)))
    values = np.concatenate(values)
    error = None  # of one image nothing is known of the spread
    if len(values) > 1:
        error = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    result = {
        "bits_per_dim": float(np.mean(values)),
        "standard_error": error,
        "images": len(values),
        "draws": options.draws,
        "bits": model.bits,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['bits_per_dim']:.4f}"
            + (f" +- {error:.4f}" if error is not None else "")
            + f" bits/dim ({len(values)} images, {options.draws} draws, "
            f"{model.bits} bits)"
        )


def _reconstruct(options):
    model = _load(options.model)
    originals = _load_files(model, options.images)
    labels = _labels(model, options, len(originals))
    decoded = model.decode(model.encode(originals, labels), labels)
    quantized = model.quantize(model.dequantize(originals, seed="center"))
    wrong = np.sum(decoded != quantized, axis=(1, 2, 3))
    bits = model.bits_per_dim(originals, seed=0, labels=labels)
    for file, count, value in zip(options.images, wrong, bits, strict=True):
        verdict = "exact" if not count else f"{count} values differ"
        print(f"{file}: {verdict}, {value:.3f} bits/dim")
    if options.grid:
        images.save_grid(
            np.concatenate([quantized, decoded]), options.grid, len(originals)
        )
        print(options.grid)
    if wrong.any():
        raise ValueError(f"{np.count_nonzero(wrong)} images are not exact")


def _interpolate(options):
    model = _load(options.model)
    ends = _load_files(model, [options.a, options.b])
    labels = _labels(model, options, 2)
    z = model.encode(ends, labels)
    shares = np.linspace(0, 1, options.steps)
    between = latent.interpolate(z, shares, options.spherical)
    # Of the class of the nearer end.
    labels = _rows(labels, (shares > 0.5).astype(int))
    images.save_grid(
        model.decode(between, labels), options.grid, columns=options.steps
    )
    print(options.grid)


def _info(options):
    model = _load(options.model)
    lines = {
        name: value
        for name, value in model.get_config().items()
        if name not in ("name", "dtype")
    }
    lines["parameters"] = f"{model.count_params():,}"
    lines["latents per level"] = [
        math.prod(shape) for shape in model.latent_shapes
    ]
    file = _model_file(options.model)
    steps = training_steps(file)
    if steps is not None:
        lines["training steps"] = steps
    lines["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name, value in lines.items():
        print(f"{name}: {value}")


def _convert(options):
    out = pathlib.Path(options.out)
    if out.suffix != ".keras":
        raise ValueError(f"--out is expected to be a .keras file, not {out}")
    model = convert(
        options.checkpoint,
        options.size,
        options.bits,
        options.format,
        options.prefix,
    )
    model.save(out)
    print(
        f"image_shape={model.image_shape}, levels={model.levels}, "
        f"depth={model.depth}, width={model.width}, "
        f"coupling={model.coupling}, bits={model.bits}"
    )
    print(out)


def _export(options):
    _load(options.model).export(options.out, EXPORTS[options.format])
    print(options.out)


def _doctor(options):
    model = _load(options.model)
    data, labels = _load_for(model, options.data, options.upscale)
    chosen = slice(options.count)
    found = model.diagnose(data[chosen], _rows(labels, chosen))
    if options.json:
        # JSON knows no nan: numbers that are not finite become strings.
        text = json.dumps(found.to_dict())
        print(json.dumps(json.loads(text, parse_constant=str)))
    else:
        print(found)
    if found.problems:
        raise ValueError(found.verdict)


def _demo(options):
    model = options.model
    directions = options.directions
    if directions is None:
        directions = demo.directions_path(_model_file(model))
    name = model if model in PRESETS else pathlib.Path(model).name
    demo.serve(
        functools.partial(_load, model),
        name,
        directions,
        options.port,
        options.browser,
    )


def _presets(options):
    for name, preset in PRESETS.items():
        print(f"{name}: {preset.description}")


# What the commands share


def _model_file(model):
    return preset_path(model) if model in PRESETS else pathlib.Path(model)


def _load(model):
    if model in PRESETS:
        return load_preset(model)
    path = pathlib.Path(model)
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist, and is no preset ({', '.join(PRESETS)})"
        )
    if path.suffix != ".keras":
        raise ValueError(f"{path} is expected to be a .keras file")
    return load_model(path)


def _load_for(model, path, upscale=False):
    """Images for a model, and their labels if it has classes."""
    size, keys = _size(model.image_shape), images.TEST_KEYS
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


def _load_files(model, files):
    size, channels = _size(model.image_shape), model.image_shape[-1]
    if size is None:
        raise ValueError("Only models of square images read image files")
    return np.stack([images.load_image(file, size, channels) for file in files])


def _size(image_shape):
    """What images are resized to: None if they are not square."""
    height, width, _ = image_shape
    return height if height == width else None


def _labels(model, options, count, needed=True):
    """The classes of `--labels`, one for each of `count` images."""
    labels = options.labels
    if labels is None and not (needed and model.num_classes):
        return None
    if not model.num_classes:
        raise ValueError("--labels is expected with a model with classes only")
    if labels is None or len(labels) not in (1, count):
        raise ValueError(
            f"--labels is expected to be one class 0..{model.num_classes - 1} "
            f"for all images, or {count} joined by commas, for each of them"
        )
    return np.resize(labels, count)


def _rows(labels, rows):
    return None if labels is None else labels[rows]


# The options


def _number(kind, low, high=None):
    """An argparse type: a number within limits."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if (
            value is None
            or not low <= value < math.inf
            or (high is not None and value > high)
        ):
            limits = f">= {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(
                f"expected a number {limits}, got {text!r}"
            )
        return value

    return parse


_count = _number(int, 1)
_seed = _number(int, 0, MAX_WEIGHTS_SEED)


def _temperature(text):
    """One number, or several joined by commas, one per level."""
    values = [_number(float, 0)(part) for part in text.split(",")]
    return values[0] if len(values) == 1 else values


def _classes(text):
    """One class, or several joined by commas."""
    return [_number(int, 0)(part) for part in text.split(",")]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


def _parser():
    parser = _Parser(
        prog="keras-glow",
        description="Train a Glow on your images, and sample from it.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_check_data,
        _add_train,
        _add_sample,
        _add_evaluate,
        _add_reconstruct,
        _add_interpolate,
        _add_info,
        _add_convert,
        _add_export,
        _add_doctor,
        _add_demo,
        _add_presets,
    ):
        add(commands)
    return parser


def _add_command(commands, name, run, help):
    command = commands.add_parser(
        name,
        help=help,
        description=help,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_check_data(commands):
    command = _add_command(
        commands,
        "check-data",
        _check_data,
        "Report every file that cannot be trained on, and what is done to "
        "those that can.",
    )
    add = command.add_argument
    add("data", metavar="DATA", help="folder, or .npz with images or x_train")
    add("--size", type=_count, help="height and width to train at")
    _add_upscale(command)
    add("--json", action="store_true", help="print JSON")


def _add_train(commands):
    command = _add_command(
        commands,
        "train",
        _train,
        "Train a model on a folder of images or an .npz file; leaves "
        "model.keras, history.csv and samples/ in RUN.",
    )
    add = command.add_argument
    add("data", metavar="DATA", help="folder, or .npz with images or x_train")
    add("--out", metavar="RUN", default="run", help="folder of the run")
    add("--validation", metavar="DATA", help="images that are not trained on")
    add(
        "--resume",
        action="store_true",
        help="go on with the run in RUN, if any",
    )
    add("--epochs", type=_count)
    add("--batch-size", type=_count)
    add("--size", type=_count, help="height and width to resize to")
    add("--grey", action="store_true", help="read a folder as grey images")
    add(
        "--on-bad",
        choices=["error", "skip"],
        default="error",
        help="what to do about images that cannot be used",
    )
    _add_upscale(command)
    add("--flip", action="store_true", help="mirror half of the images")
    add("--levels", type=_count)
    add("--depth", type=_count, help="steps of flow in a level")
    add("--width", type=_count, help="of the coupling networks")
    add("--permutation", choices=sorted(PERMUTATIONS))
    add("--coupling", choices=sorted(COUPLINGS))
    add("--bits", type=_number(int, 1, 8), help="per subpixel")
    add(
        "--learning-rate",
        type=_number(float, 0),
        help="the highest: it falls by half a cosine",
    )
    add("--warmup", type=_number(int, 0), help="steps up to it")
    add(
        "--clip",
        type=_number(float, 0),
        help="gradient norm; 0: none",
    )
    add(
        "--ema",
        type=_number(float, 0, 0.99999),
        help="momentum of the averaged weights; 0 for none",
    )
    add(
        "--network-dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of the coupling networks while training",
    )
    add("--seed", type=_seed)
    add(
        "--devices",
        type=_count,
        default=1,
        help="of this machine that share each batch, on TensorFlow and JAX",
    )
    command.set_defaults(**dataclasses.asdict(training.Settings()))


def _add_sample(commands):
    command = _add_command(commands, "sample", _sample, "Draw images.")
    add = command.add_argument
    _add_model(command)
    add("--count", type=_count, default=16)
    add(
        "--temperature",
        type=_temperature,
        default=0.7,
        help="a number, or one per level joined by commas, finest first",
    )
    add("--seed", type=_seed, default=0)
    _add_labels(command)
    target = command.add_mutually_exclusive_group(required=True)
    target.add_argument("--grid", metavar="FILE.png", help="one picture of all")
    target.add_argument("--out", metavar="DIR", help="a PNG for each image")


def _add_evaluate(commands):
    command = _add_command(
        commands, "evaluate", _evaluate, "Print bits/dim on images."
    )
    _add_model(command)
    add = command.add_argument
    add("data", metavar="DATA", help="folder, or .npz with images or x_test")
    _add_upscale(command)
    add("--draws", type=_count, default=1, help="of noise for each image")
    add("--seed", type=_seed, default=0)
    add("--json", action="store_true", help="print JSON")


def _add_reconstruct(commands):
    command = _add_command(
        commands, "reconstruct", _reconstruct, "Encode images and decode them."
    )
    _add_model(command)
    _add_labels(command)
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument(
        "--grid", metavar="FILE.png", help="both, as a picture"
    )


def _add_interpolate(commands):
    command = _add_command(
        commands,
        "interpolate",
        _interpolate,
        "Draw images between two, along a line or an arc of latents.",
    )
    _add_model(command)
    command.add_argument("a", metavar="A", help="image file")
    command.add_argument("b", metavar="B", help="image file")
    _add_labels(command)
    command.add_argument("--steps", type=_number(int, 2), default=8)
    command.add_argument(
        "--spherical", action="store_true", help="along the great circle"
    )
    command.add_argument("--grid", metavar="FILE.png", required=True)


def _add_info(commands):
    command = _add_command(commands, "info", _info, "Describe a model file.")
    _add_model(command)


def _add_convert(commands):
    command = _add_command(
        commands,
        "convert",
        _convert,
        "Convert a model that another project trained.",
    )
    add = command.add_argument
    add("checkpoint", metavar="CHECKPOINT", help=".pt, .npz, .ckpt, ...")
    add("--out", metavar="FILE.keras", required=True)
    add("--format", choices=sorted(FORMATS), help="or told by the weights")
    add("--size", type=_count, help="height and width, if not in the file")
    add(
        "--bits",
        type=_number(int, 1, 8),
        default=8,
        help="per subpixel that it was trained with, which no file holds",
    )
    add("--prefix", help="what stands before the names of its weights")


def _add_export(commands):
    command = _add_command(
        commands,
        "export",
        _export,
        "Write the encoder and the decoder as files that run without this "
        "package, and what they take and give, signature.json.",
    )
    _add_model(command)
    add = command.add_argument
    add("--format", choices=sorted(EXPORTS), default="savedmodel")
    add("--out", metavar="DIR", required=True, help="folder to make")


def _add_doctor(commands):
    command = _add_command(
        commands,
        "doctor",
        _doctor,
        "Find out whether images come back exactly, and what loses them.",
    )
    _add_model(command)
    add = command.add_argument
    add("data", metavar="DATA", help="folder, or .npz with images or x_test")
    add("--count", type=_count, default=64, help="images to look at")
    _add_upscale(command)
    add("--json", action="store_true", help="print JSON")


def _add_demo(commands):
    command = _add_command(
        commands,
        "demo",
        _demo,
        "Serve a page to this computer's browser: draw faces, edit and blend.",
    )
    add = command.add_argument
    add(
        "--model",
        metavar="MODEL",
        default="faces32",
        help=".keras file, or a preset's name",
    )
    add(
        "--directions",
        metavar="FILE.npz",
        help="of the attributes; default: MODEL_attributes.npz beside it",
    )
    add(
        "--port",
        type=_number(int, 0, 65535),
        default=8000,
        help="of 127.0.0.1; 0 for any that is free",
    )
    add(
        "--no-browser",
        dest="browser",
        action="store_false",
        help="open no browser",
    )


def _add_presets(commands):
    _add_command(
        commands, "presets", _presets, "List the models that come with it."
    )


def _add_upscale(command):
    command.add_argument(
        "--upscale",
        action="store_true",
        help="enlarge images of a folder that are too small",
    )


def _add_labels(command):
    command.add_argument(
        "--labels",
        type=_classes,
        help="of a model with classes: one for all images, or one for each, "
        "joined by commas",
    )


def _add_model(command):
    command.add_argument(
        "model", metavar="MODEL", help=".keras file, or a preset's name"
    )
