"""The command that makes files to train on from the archive of a data set.

It imports NumPy where it is needed, and not before: see `cli.train`.
"""

import pathlib

from keras_glow.cli.options import command, number, option
from keras_glow.files.presets import FOLDERS


@command(
    option("dataset", choices=["celeba"], help="whose archive it is"),
    option("archive", metavar="DIR", help="folder of it, or zip file"),
    option(
        "--out",
        metavar="FOLDER",
        help="where to write; DIR, or the folder of the zip file, if left out",
    ),
    option(
        "--size",
        type=number(int, 1, 128),
        default=32,
        help="height and width of the faces",
    ),
    option(
        "--split",
        choices=["faces32", "official"],
        default="faces32",
        help="faces32: the images that this preset was trained and judged on, "
        "if all are there; official: the partition that the archive comes with",
    ),
)
def prepare(options):
    """Make the faces that docs, experiments and notebooks use from CelebA.

    DIR holds img_align_celeba/ (or its zip file), list_attr_celeba.txt,
    list_eval_partition.txt and, if it is there, identity_CelebA.txt, as the
    authors of CelebA pass them on, for non-commercial research.
    """
    from keras_glow.images.celeba import prepare_celeba
    from keras_glow.images.npz import open_npz

    archive = pathlib.Path(options.archive)
    out = options.out or (archive if archive.is_dir() else archive.parent)
    split = None
    if options.split == "faces32":
        path = next(f for f in FOLDERS if f.is_dir()) / "faces32_split.npz"
        with open_npz(path) as arrays:
            split = {part: arrays[part].tolist() for part in arrays}
    written = prepare_celeba(archive, out, options.size, split, verbose=1)
    for path, count in written.items():
        print(f"{path}: {count} images")
