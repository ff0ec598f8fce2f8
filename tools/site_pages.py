"""Pages of the site that are made of other files: a hook of mkdocs.

The first page is the README, the models are their cards, the notebooks are as
they were run last, the API is a list of public names for mkdocstrings, and the
command line is its own help.
"""

import ast
import os
import pathlib
import posixpath
import re
import subprocess
import sys

import griffe
import nbconvert
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "keras_glow"
# Pages of the API, and the modules whose names they hold.
MODULES = {
    "keras_glow": "keras_glow",
    "layers": "keras_glow.layers",
    "images": "keras_glow.images",
    "latent": "keras_glow.latent",
    "callbacks": "keras_glow.callbacks",
    "schedules": "keras_glow.schedules",
    "losses": "keras_glow.losses",
    "data": "keras_glow.data",
    "distances": "keras_glow.analysis.distances",
    "conversion": "keras_glow.conversion",
    "presets": "keras_glow.files.presets",
}
NOTEBOOKS = {
    f"notebooks/{path.name}": f"notebooks/{path.stem}/index.md"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
# Files of the repository to pages of the site; links to others become text.
PLACES = {
    "README.md": "index.md",
    **{
        f"weights/{card.name}": f"models/{card.name}"
        for card in sorted((ROOT / "weights").glob("*.md"))
    },
    **NOTEBOOKS,
}


class FencedExamples(griffe.Extension):
    """Makes code of the lines after `>>>`, which Keras does not indent."""

    def on_object(self, *, obj, **kwargs):
        """Changes the docstring of a class or a function."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"(?m)^((?:Example:\n)?)(>>> (?:.+\n?)+)",
                r"\1\n```pycon\n\2\n```\n",
                obj.docstring.value,
            )


def on_files(files, config):
    """Adds the pages that are made here."""
    for source, target in PLACES.items():
        if source in NOTEBOOKS:
            text, pictures = _notebook(ROOT / source)
            for name, content in pictures.items():
                place = posixpath.join(posixpath.dirname(target), name)
                _add(files, config, place, content)
        else:
            text = (ROOT / source).read_text()
        _add(files, config, target, _relinked(text, source, target))
    for name, module in MODULES.items():
        _add(files, config, f"api/{name}.md", _api(name, module))
    _add(files, config, "cli.md", _command_line())
    return files


def on_page_markdown(markdown, page, **kwargs):
    """Leads the links of docs/ to pages of the site."""
    target = page.file.src_uri
    source = f"docs/{target}"
    if (ROOT / source).is_file():
        return _relinked(markdown, source, target)
    return markdown


def _notebook(path):
    """Returns a notebook with its outputs as Markdown, and its pictures."""
    text, more = nbconvert.MarkdownExporter().from_filename(str(path))
    return text, more["outputs"]


def _add(files, config, target, text):
    files.append(File.generated(config, target, content=text))


def _relinked(text, source, target):
    """Returns Markdown of a file in the repository for a page of the site."""

    def relink(match):
        mark, label, link = match.groups()
        path, _, anchor = link.partition("#")
        if not path or "://" in path:
            return match[0]
        path = posixpath.normpath(
            posixpath.join(posixpath.dirname(source), path)
        )
        place = PLACES.get(path)
        if place is None and path.startswith("docs/"):
            place = path.removeprefix("docs/")
        if place is None:
            return match[0] if mark else label  # pictures lie beside a page
        place = posixpath.relpath(place, posixpath.dirname(target) or ".")
        return f"{mark}[{label}]({place}{'#' if anchor else ''}{anchor})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", relink, text)


def _api(name, module):
    """Returns a page with the public names of a module for mkdocstrings."""
    title = name if name == "keras_glow" else f"keras_glow.{name}"
    lines = [f"# {title}\n"]
    for public in _public_names(module):
        # A function of the name of its module would be taken for that.
        own = "keras_glow.conversion.convert"
        path = f"{own}.convert" if public == "convert" else f"{module}.{public}"
        lines.append(f"::: {path}\n")
    return "\n".join(lines)


def _public_names(module):
    """Returns what a module offers, read from its source."""
    if module == "keras_glow.data":  # whose other names are for the package
        return ["ImageSequence"]
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text())
    own = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and not node.name.startswith("_")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == (
            "__all__"
        ):
            own = ast.literal_eval(node.value)
    # Modules have pages of their own.
    return [n for n in own if n not in MODULES and not n.isupper()]


def _command_line():
    """Returns the help of each command."""
    environment = {
        **os.environ,
        "COLUMNS": "80",
        "PYTHONPATH": str(ROOT),
    }

    def help_of(*command):
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "keras_glow", *command, "--help"],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        return f"```text\n{done.stdout}```\n"

    first = help_of()
    parts = ["# Command line\n", first]
    for name in re.findall(r"^    ([a-z-]+)(?: |$)", first, re.MULTILINE):
        parts += [f"## {name}\n", help_of(name)]
    return "\n".join(parts)
