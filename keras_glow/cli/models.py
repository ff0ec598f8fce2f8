"""The commands on trained models, from `sample` to `export`.

They import Keras where they need it, and not before: see `cli.train`.
"""

import csv
import functools
import hashlib
import json
import math
import pathlib
import statistics
import sys

from keras_glow.cli import inputs
from keras_glow.cli.options import (
    BITS,
    CONTEXT,
    CONTEXT_VALUES,
    COUNT,
    DIRECTIONS,
    JSON,
    LABELS,
    MODEL,
    NOISE,
    ON_BAD,
    SEED,
    TEMPERATURE,
    TEST_DATA,
    UPSCALE,
    command,
    grid,
    number,
    one_of,
    option,
)
from keras_glow.files.presets import PRESETS, preset_sha256

MAPPED_IMAGES = 16  # by `evaluate --map`
# Names of the formats of `convert`.
FORMATS = ("chaiyujin", "openai", "rosinality", "y0ast")
# Names of `export` to those of `keras.Model.export`.
EXPORT_FORMATS = {
    "savedmodel": "tf_saved_model",
    "litert": "litert",
    "onnx": "onnx",
}


@command(
    MODEL,
    option("--count", type=COUNT, default=16),
    TEMPERATURE,
    option("--seed", type=SEED, default=0),
    LABELS,
    CONTEXT_VALUES,
    one_of(
        grid(help="one picture of all"),
        option("--out", metavar="DIR", help="a PNG for each image"),
    ),
)
def sample(options):
    """Draw images."""
    from keras_glow import images
    from keras_glow.analysis.probes import to_show

    model = inputs.load_model(options.model)
    labels = options.labels and inputs.labels_for(
        model, options.labels, options.count
    )
    samples = model.sample(
        options.count,
        options.temperature,
        options.seed,
        labels,
        context=inputs.read_context(options.context),
    )
    shown = to_show(model, samples)
    if options.grid:
        images.save_grid(shown, options.grid)
        print(options.grid)
    if options.out:
        # Grey PNG files hold 16 bits.
        deep = samples.dtype == "uint16" and samples.shape[-1] == 1
        for i, sample in enumerate(samples if deep else shown):
            path = pathlib.Path(options.out) / f"sample_{i:04d}.png"
            images.save_image(sample, path)
        print(options.out)


def _per_dim(model, data, given, options, quiet):
    """Returns bits/dim of each image, or nats/dim, and shows progress."""
    from keras_glow.images.progress import chunks

    values = []
    for chunk in chunks(len(data), 256, "images", quiet):
        log_prob = model.log_prob(
            data[chunk],
            draws=options.draws,
            # With one seed all chunks would have the same noise.
            seed=options.seed + chunk.start,
            **inputs.rows(given, chunk),
        )
        values.extend((-log_prob / model.nats_of_one).tolist())
    return values


def _save_map(model, data, given, options):
    """Draws the first images, each beside where it is unlikely."""
    import numpy as np

    from keras_glow.analysis.probes import to_show
    from keras_glow.images import heat_map, save_grid

    few = slice(MAPPED_IMAGES)
    maps = model.log_prob_map(
        data[few],
        draws=options.draws,
        seed=options.seed,
        **inputs.rows(given, few),
    )
    shown = to_show(model, data[few])
    pairs = np.stack([shown, heat_map(-maps, shown.shape[-1])], axis=1)
    save_grid(pairs.reshape(-1, *shown.shape[1:]), options.map, columns=8)


@command(
    MODEL,
    TEST_DATA,
    CONTEXT,
    ON_BAD,
    UPSCALE,
    *NOISE,
    grid(
        "--map",
        help=f"the first {MAPPED_IMAGES} images, each beside a map that is "
        "bright where it is unlikely",
    ),
    JSON,
)
def evaluate(options):
    """Print bits/dim on images, nats/dim on floats."""
    model = inputs.load_model(options.model)
    data, given, _ = inputs.load_data(model, options)
    values = _per_dim(model, data, given, options, options.json)
    if options.map:
        _save_map(model, data, given, options)
    mean = statistics.fmean(values)
    error = None  # One image says nothing about the spread.
    if len(values) > 1:
        error = float(statistics.stdev(values) / math.sqrt(len(values)))
    if options.json:
        result = {
            model.per_dim: mean,
            "standard_error": error,
            "images": len(values),
            "draws": options.draws,
            "bits": model.bits,
        }
        print(json.dumps(result))
    else:
        spread = "" if error is None else f" +- {error:.4f}"
        unit = model.per_dim.replace("_per_", "/")
        kind = "floats" if model.bits is None else f"{model.bits} bits"
        print(
            f"{mean:.4f}{spread} {unit} ({len(values)} images, "
            f"{options.draws} draws, {kind})"
        )
        if options.map:
            print(options.map)


@command(
    MODEL,
    TEST_DATA,
    CONTEXT,
    option("--csv", metavar="FILE", help="to write; default: print it"),
    option(
        "--typical",
        metavar="DATA",
        help="images as they should be; default: those that are scored",
    ),
    ON_BAD,
    UPSCALE,
    *NOISE,
)
def score(options):
    """Score how unlike the training images each image is, worst first.

    Writes a table (CSV) with a row for each file: bits_per_dim, under the
    model; typicality, how far they are from the mean of typical images; and
    complexity, bits_per_dim minus the bits of the image as a PNG file, by which
    it is sorted. See keras_glow.latent.anomaly_score. No PNG file holds floats:
    their table has nats_per_dim, and is sorted by typicality.
    """
    from keras_glow.files.atomic import atomic_file
    from keras_glow.latent.anomaly import png_bits_per_dim

    model = inputs.load_model(options.model)
    data, given, names = inputs.load_data(model, options)
    quiet = options.csv is None
    values = _per_dim(model, data, given, options, quiet)
    typical = values
    if options.typical:
        typical, given, _ = inputs.load_data(model, options, options.typical)
        typical = _per_dim(model, typical, given, options, quiet)
    mean = statistics.fmean(typical)
    columns = {
        "file": names or range(len(data)),
        model.per_dim: values,
        "typicality": [abs(value - mean) for value in values],
    }
    if model.bits is not None:
        columns["complexity"] = values - png_bits_per_dim(model, data)
    rows = list(zip(*columns.values(), strict=True))
    # What is not a number is worst.
    rows.sort(key=lambda row: (math.isnan(row[-1]), row[-1]), reverse=True)
    rows = [[name, *(f"{n:.4f}" for n in scores)] for name, *scores in rows]
    table = [columns, *rows]
    if quiet:
        csv.writer(sys.stdout, lineterminator="\n").writerows(table)
        return
    with (
        atomic_file(options.csv) as partial,
        open(partial, "w", -1, "utf-8", "surrogateescape", "") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(table)
    print(options.csv)


@command(
    MODEL,
    LABELS,
    CONTEXT_VALUES,
    option("images", nargs="+", metavar="IMAGE"),
    grid(help="both, as a picture"),
)
def reconstruct(options):
    """Encode images and decode them."""
    import numpy as np

    from keras_glow import images
    from keras_glow.analysis.probes import to_show

    model = inputs.load_model(options.model)
    originals = inputs.load_files(model, options.images)
    given = inputs.given_for(model, options, len(originals))
    decoded = model.decode(model.encode(originals, **given), **given)
    quantized = model.quantize(model.dequantize(originals, seed="center"))
    wrong = np.sum(decoded != quantized, axis=(1, 2, 3))
    bits = model.bits_per_dim(originals, seed=0, **given)
    for file, count, value in zip(options.images, wrong, bits, strict=True):
        verdict = "exact" if not count else f"{count} values differ"
        print(f"{file}: {verdict}, {value:.3f} bits/dim")
    if options.grid:
        both = to_show(model, np.concatenate([quantized, decoded]))
        images.save_grid(both, options.grid, len(originals))
        print(options.grid)
    if wrong.any():
        raise ValueError(f"{np.count_nonzero(wrong)} images are not exact")


@command(MODEL)
def info(options):
    """Describe a model file."""
    from keras_glow.files.strict_reader import read_model, training_steps
    from keras_glow.flow.arguments import ARGUMENTS
    from keras_glow.flow.levels import latent_shapes

    file = inputs.model_file(options.model)
    config, weights = read_model(file, preset_sha256(options.model))
    lines = {name: config[name] for name in ARGUMENTS}
    del weights["vars/train_noise"]  # a counter, no parameter
    parameters = sum(weight.size for weight in weights.values())
    lines["parameters"] = f"{parameters:,}"
    shapes = latent_shapes(config["image_shape"], config["levels"])
    lines["latents per level"] = list(map(math.prod, shapes))
    steps = training_steps(file)
    if steps is not None:
        lines["training steps"] = steps
    lines["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name, value in lines.items():
        print(f"{name}: {value}")


@command(
    option("checkpoint", metavar="CHECKPOINT", help=".pt, .npz, .ckpt, ..."),
    option("--out", metavar="FILE.keras", required=True),
    option("--format", choices=FORMATS, help="or told by the weights"),
    option("--size", type=COUNT, help="height and width, if not in the file"),
    option(
        "--bits",
        type=BITS,
        default=8,
        help="per subpixel that it was trained with, which no file holds",
    ),
    option("--prefix", help="what stands before the names of its weights"),
)
def convert(options):
    """Convert a model that another project trained."""
    from keras_glow.conversion import convert

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


@command(
    MODEL,
    option("--format", choices=sorted(EXPORT_FORMATS), default="savedmodel"),
    option("--out", metavar="DIR", required=True, help="folder to make"),
)
def export(options):
    """Write encoder and decoder as files that run without this package.

    signature.json beside them says what they take and give.
    """
    inputs.load_model(options.model).export(
        options.out, EXPORT_FORMATS[options.format]
    )
    print(options.out)


@command(
    MODEL,
    TEST_DATA,
    CONTEXT,
    option("--count", type=COUNT, default=64, help="images to look at"),
    ON_BAD,
    UPSCALE,
    JSON,
)
def doctor(options):
    """Find out whether images come back exactly, and what loses them."""
    model = inputs.load_model(options.model)
    data, given, _ = inputs.load_data(model, options)
    chosen = slice(options.count)
    diagnosis = model.diagnose(data[chosen], **inputs.rows(given, chosen))
    if options.json:
        # JSON has no NaN: numbers that are not finite become strings.
        text = json.dumps(diagnosis.to_dict())
        print(json.dumps(json.loads(text, parse_constant=str)))
    else:
        print(diagnosis)
    if diagnosis.problems:
        raise ValueError(diagnosis.verdict)


@command(
    option(
        "--model",
        metavar="MODEL",
        default="faces32",
        help=".keras file, or a preset's name",
    ),
    DIRECTIONS,
    option(
        "--port",
        type=number(int, 0, 65535),
        default=8000,
        help="of 127.0.0.1; 0 for any that is free",
    ),
    option("--no-browser", action="store_true", help="open no browser"),
)
def demo(options):
    """Serve a page to this computer's browser: draw images, edit and blend."""
    from keras_glow.cli import demo

    model, directions = options.model, options.directions
    file = inputs.model_file(model)
    if directions is None:
        directions = demo.directions_path(file)
    demo.serve(
        functools.partial(inputs.load_model, model),
        model if model in PRESETS else pathlib.Path(model).name,
        directions,
        options.port,
        not options.no_browser,
        inputs.read_classes(file.parent),
    )


@command()
def presets(options):
    """List the models that come with it."""
    for name, preset in PRESETS.items():
        print(f"{name}: {preset.description}")
