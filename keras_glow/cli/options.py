"""How commands and options are written down, and those that several share.

A command or an option is a function that adds it to a parser.
"""

import argparse
import math
import pathlib

from keras_glow.flow.choices import MAX_WEIGHTS_SEED


def command(*options):
    """Makes a command of a function of the parsed options, which does the job.

    The function gives it its name and, by its docstring, its help; the options
    are made by `option` and `one_of`.
    """

    def decorate(run):
        def add(commands):
            parser = commands.add_parser(
                run.__name__.replace("_", "-"),
                help=(run.__doc__ or "").partition("\n")[0],  # none by -OO
                description=run.__doc__,
                formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            )
            parser.set_defaults(run=run)
            for add_option in options:
                add_option(parser)

        return add

    return decorate


def option(*names, **settings):
    """Returns an option, with the arguments of `add_argument` of argparse."""
    return lambda parser: parser.add_argument(*names, **settings)


def one_of(*options):
    """Returns an option that stands for exactly one of several."""

    def add(parser):
        group = parser.add_mutually_exclusive_group(required=True)
        for add_option in options:
            add_option(group)

    return add


def number(kind, low, high=math.inf):
    """Returns an argparse type: a finite number within limits."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if low <= value <= high and value < math.inf:
            return value
        limits = f">= {low}" if high == math.inf else f"from {low} to {high}"
        raise argparse.ArgumentTypeError(
            f"expected a number {limits}, got {text!r}"
        )

    return parse


def per_level(parse):
    """Returns an argparse type: one value, or one per level, with commas."""

    def parse_all(text):
        values = [parse(part) for part in text.split(",")]
        return values[0] if len(values) == 1 else values

    return parse_all


def classes(text):
    """Parses one class, or several joined by commas."""
    return [number(int, 0)(part) for part in text.split(",")]


def grid(name="--grid", **settings):
    """Returns the option that names a picture to write."""
    return option(name, type=_picture, metavar="FILE.png", **settings)


def animation(**settings):
    """Returns the option that names an animation to write."""
    return option("--out", type=_animation, metavar="FILE.gif", **settings)


def _animation(text):
    suffixes = (".gif", ".webp")
    if not text.lower().endswith(suffixes):
        raise argparse.ArgumentTypeError(
            f"expected a file {' or '.join(suffixes)}, got {text!r}"
        )
    return text


def _picture(text):
    """Returns the name of a file if its suffix is of an image format."""
    from PIL import Image

    suffix = pathlib.Path(text).suffix.lower()
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise argparse.ArgumentTypeError(
            f"expected a file such as .png or .jpg, got {text!r}"
        )
    return text


def any_bits(text):
    """Parses bits per subpixel; none is for floats, None."""
    return None if text == "none" else number(int, 1, 16)(text)


ANY_BITS = {
    "type": any_bits,
    "help": "per subpixel: 9 to 16 for images of more than 8, which folders "
    "hold in grey; none for floats of an .npy or .npz file",
}
COUNT = number(int, 1)
DEPTH = per_level(COUNT)
SEED = number(int, 0, MAX_WEIGHTS_SEED)
BITS = number(int, 1, 8)

JSON = option("--json", action="store_true", help="print JSON")
LABELS = option(
    "--labels",
    type=classes,
    help="of a model with classes: one for all images, or one for each, "
    "joined by commas",
)
CONTEXT = option(
    "--context",
    metavar="KEY|CSV",
    help="what is known of each image: an array in the .npz file or, for a "
    "folder, a table of file names and numbers",
)
CONTEXT_VALUES = option(
    "--context",
    metavar="NUMBERS|FILE.npy",
    help="of a model with a context: for all images, joined by commas, or an "
    "array for all or for each",
)
DIRECTIONS = option(
    "--directions",
    metavar="FILE.npz",
    help="of the attributes; default: MODEL_attributes.npz beside it",
)
MODEL = option(
    "model",
    metavar="MODEL",
    help="a preset's name, a .keras file, or a folder with model.keras",
)
TRAIN_DATA, TEST_DATA = (
    option(
        "data",
        metavar="DATA",
        help=f"folder, .npy, or .npz with images or {key}",
    )
    for key in ("x_train", "x_test")
)
ANY_ON_BAD = {
    "choices": ["error", "skip"],
    "help": "what to do about images of a folder that cannot be used",
}
ON_BAD = option("--on-bad", default="error", **ANY_ON_BAD)
TEMPERATURE = option(
    "--temperature",
    type=per_level(number(float, 0)),
    default=0.7,
    help="a number, or one per level joined by commas, finest first",
)
NOISE = (
    option("--draws", type=COUNT, default=1, help="of noise for each image"),
    option("--seed", type=SEED, default=0),
)
ANY_UPSCALE = {
    "action": "store_true",
    "help": "enlarge images of a folder that are too small",
}
UPSCALE = option("--upscale", **ANY_UPSCALE)
