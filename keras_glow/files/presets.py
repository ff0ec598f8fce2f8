"""Trained models that come with the package, by name."""

import pathlib
import typing

PACKAGE = pathlib.Path(__file__).parents[1]
# Of an installed package, and of a checkout.
FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")


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
        "a7ab63eb08b445b5145f0c9f98c8dcbef7195f906cca70588408ddb15a8db447",
    ),
}


def preset_path(name):
    """The `.keras` file of a preset.

    Raises:
        ValueError: naming the presets there are.
        FileNotFoundError: if its file is missing.
    """
    from keras_glow.checks import check_choice  # To list them needs nothing.

    check_choice("name", name, sorted(PRESETS))
    for folder in FOLDERS:
        path = folder / f"{name}.keras"
        if path.is_file():
            return path
    raise FileNotFoundError(f"{FOLDERS[-1] / name}.keras does not exist")
