"""Trained models that come with the package, by name."""

import os
import pathlib
import typing

PACKAGE = pathlib.Path(__file__).parents[1]
# Of an installed package, and of a checkout.
FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")


# The model in a folder that `Glow.save_to_preset` or a run has left.
MODEL = "model.keras"


class Preset(typing.NamedTuple):
    """A file in `weights/`, `<name>.keras`, with its model card `<name>.md`."""

    description: str
    sha256: str


PRESETS = {
    "faces32": Preset(
        "faces of 32x32 pixels, for non-commercial research",
        "a7e7082d19976d42a575e3e4866ad40b4efa7eeff4dd26eac65209f3fa8d5baf",
    ),
    "mnist": Preset(
        "handwritten digits in 32x32 grey pixels, ten classes",
        "e15a2a987daf7345599c079073343b59e642327f3a0b25c7bb62cb71d16f65d8",
    ),
}


def model_path(path):
    """The file of a model: `path`, or that in the folder `path`."""
    path = pathlib.Path(path)
    return path / MODEL if path.is_dir() else path


def preset_sha256(name):
    """The digest that a preset's file must have, None for others."""
    return PRESETS[name].sha256 if name in PRESETS else None


def preset_path(name: str | os.PathLike) -> pathlib.Path:
    """The `.keras` file of a preset, by its name or by a path.

    A path leads to the file, or to a folder that holds `model.keras`.

    Raises:
        ValueError: naming the presets there are.
        FileNotFoundError: if the file of one of them is missing.
    """
    from keras_glow.checks import refuse  # To list them needs nothing.

    is_path = isinstance(name, (str, os.PathLike))
    if is_path and name not in PRESETS and model_path(name).is_file():
        return model_path(name)
    if not is_path or name not in PRESETS:
        known = ", ".join(map(repr, sorted(PRESETS)))
        expected = f"one of ({known}), a .keras file or a folder with {MODEL}"
        refuse("name", expected, name)
    for folder in FOLDERS:
        path = folder / f"{name}.keras"
        if path.is_file():
            return path
    raise FileNotFoundError(f"{FOLDERS[-1] / name}.keras does not exist")
