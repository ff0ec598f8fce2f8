"""The commands that move latents: `interpolate`, `walk`, `directions`.

They import Keras where they need it, and not before: see `cli.train`.
"""

import pathlib
import shlex

from keras_glow.cli import inputs
from keras_glow.cli.options import (
    CONTEXT,
    CONTEXT_VALUES,
    COUNT,
    DIRECTIONS,
    LABELS,
    MODEL,
    ON_BAD,
    SEED,
    TEMPERATURE,
    UPSCALE,
    animation,
    command,
    grid,
    number,
    one_of,
    option,
)
from keras_glow.files.presets import PRESETS

PICTURE = 256  # pixels that a frame is enlarged to, about

RESULT = (
    one_of(
        grid(help="one picture of all"),
        animation(help="an animation, .gif or .webp"),
    ),
    option(
        "--loop", action="store_true", help="end an animation where it begins"
    ),
    option(
        "--fps",
        type=number(float, 0.1, 50),
        default=12,
        help="images in a second of an animation",
    ),
)


def _start(model, options):
    """Returns the images that are named, or drawn; and what they are given."""
    if options.images:
        start = inputs.load_files(model, options.images)
        return start, inputs.given_for(model, options, len(start))
    given = inputs.given_for(model, options, options.count)
    drawn = options.count, options.temperature, options.seed
    return model.sample(*drawn, **given), given


def _save(frames, options, columns):
    """Writes frames: a picture with so many columns, or an animation."""
    from keras_glow import images

    if options.grid:
        images.save_grid(frames, options.grid, columns)
        print(options.grid)
    else:
        scale = max(1, PICTURE // max(frames.shape[1:3]))
        images.save_animation(frames, options.out, options.fps, scale)
        print(options.out)


@command(
    MODEL,
    option(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="two image files or more; without any, images are drawn",
    ),
    LABELS,
    CONTEXT_VALUES,
    option(
        "--count", type=number(int, 2), default=2, help="images that are drawn"
    ),
    TEMPERATURE,
    option("--seed", type=SEED, default=0),
    option(
        "--steps",
        type=number(int, 2),
        help="images from one to the next, both counted; default: 8 for a "
        "picture, 24 for an animation",
    ),
    option("--spherical", action="store_true", help="along the great circle"),
    *RESULT,
)
def interpolate(options):
    """Draw images between two or more, along lines or arcs of latents."""
    import numpy as np

    from keras_glow import latent
    from keras_glow.analysis.probes import to_show

    if len(options.images) == 1:
        raise ValueError(
            f"Two images or more are expected, or none for images that are "
            f"drawn. Received: {options.images[0]}"
        )
    model = inputs.load_model(options.model)
    ends, given = _start(model, options)
    steps = options.steps or (8 if options.grid else 24)
    weights = latent.path_weights(len(ends), steps - 1, options.loop)
    if options.grid:  # a row from each image to the next, with both
        starts = np.arange(0, len(weights) - 1, steps - 1)
        weights = weights[np.add.outer(starts, np.arange(steps)).ravel()]
    z = model.encode(ends, **given)
    between = latent.interpolate(z, weights, options.spherical)
    nearest = inputs.rows(given, weights.argmax(axis=1))
    frames = model.decode(between, **nearest)
    _save(to_show(model, frames), options, steps)


@command(
    MODEL,
    option(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image files to begin with; without any, images are drawn",
    ),
    LABELS,
    CONTEXT_VALUES,
    option("--count", type=COUNT, default=1, help="images that are drawn"),
    option("--temperature", type=number(float, 1e-3), default=0.7),
    option("--seed", type=SEED, default=0),
    option("--steps", type=number(int, 2), default=24),
    option(
        "--angle",
        type=number(float, 1e-3),
        default=0.1,
        help="about how many radians each random step turns latents by",
    ),
    option(
        "--along",
        metavar="NAME",
        help="an attribute: walk along its direction, not at random",
    ),
    option(
        "--strength",
        type=number(float, 1e-3),
        default=2.0,
        help="along an attribute, from minus this to this",
    ),
    DIRECTIONS,
    *RESULT,
)
def walk(options):
    """Walk away from images at random, or along the direction of an attribute.

    Several images walk side by side.
    """
    import numpy as np

    from keras_glow import images, latent
    from keras_glow.analysis.probes import to_show

    model = inputs.load_model(options.model)
    if options.along:
        direction = _direction(model, options)
    start, given = _start(model, options)
    if options.along:
        strengths = np.linspace(-1, 1, options.steps) * options.strength
        frames = latent.apply_direction(
            model, start, direction, strengths, **given
        )
    else:
        z = latent.random_walk(
            model.encode(start, **given),
            options.steps - 1,
            options.angle,
            options.temperature,
            options.seed,
        )
        frames = np.stack([model.decode(step, **given) for step in z])
    frames = to_show(model, frames)
    if options.grid:  # a row for each image
        frames = np.concatenate(frames.swapaxes(0, 1))
    else:
        if options.loop:
            frames = np.concatenate([frames, frames[-2:0:-1]])
        if len(start) > 1:
            frames = np.stack([images.image_grid(frame) for frame in frames])
        else:
            frames = frames[:, 0]
    _save(frames, options, options.steps)


def _direction(model, options):
    from keras_glow.cli import demo

    file = options.directions or demo.directions_path(
        inputs.model_file(options.model)
    )
    if file is None:
        raise ValueError(
            f"--directions is expected: no file of them lies beside "
            f"{options.model}. keras-glow directions makes one"
        )
    found = demo.read_directions(file, model.dimensions)
    if options.along not in found:
        raise ValueError(
            f"--along is expected to be one of {', '.join(found)}. Received: "
            f"{options.along}"
        )
    return found[options.along]


@command(
    MODEL,
    option(
        "data",
        metavar="DATA",
        nargs="?",
        help="folder, or .npz with images or x_test",
    ),
    option(
        "--labels",
        nargs="+",
        metavar="LABELS",
        help="a table (CSV): names of files, and a column of 0 and 1, or -1 "
        "and 1, for each attribute; or an .npz with attributes and "
        "attribute_names; or two folders: with an attribute, which is called "
        "like the folder, and without it. Default: DATA, an .npz",
    ),
    option(
        "--attributes",
        metavar="NAMES",
        type=lambda text: text.split(","),
        help="those to find, joined by commas; default: all",
    ),
    option(
        "--orthogonal",
        action="store_true",
        help="leave out of each direction what the others have in common "
        "with it",
    ),
    option(
        "--ridge",
        type=number(float, 1e-9),
        help="find them by ridge regression, not as differences of means",
    ),
    option(
        "--out",
        metavar="FILE.npz",
        help="default: MODEL_attributes.npz beside the model, where "
        "keras-glow demo looks for it",
    ),
    option("--add", action="store_true", help="to what the file holds already"),
    CONTEXT,
    ON_BAD,
    UPSCALE,
)
def directions(options):
    """Find the directions of attributes: the sliders of keras-glow demo.

    With a table or folders of your own images, the sliders are your own.
    """
    from keras_glow.cli import demo, own_directions

    file = inputs.model_file(options.model)
    out = options.out
    if out is None and options.model in PRESETS:
        raise ValueError(
            "--out is expected with a preset: its own file stays as it is"
        )
    out = pathlib.Path(out or demo.beside(file))
    if out.suffix != ".npz":
        raise ValueError(f"--out is expected to be an .npz file, not {out}")
    model = inputs.load_model(options.model)
    found = {}
    if options.add and out.exists():
        found = demo.read_directions(out, model.dimensions)
    found |= own_directions.find(model, options)
    demo.write_directions(out, found)
    print(f"Sliders: {', '.join(found)}")
    command = ["keras-glow", "demo", "--model", options.model]
    if out != demo.beside(file):
        command += ["--directions", str(out)]
    print(f"Next: {shlex.join(command)}")
    print(out)
