"""The package never does what lets a file run code: read from its source."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_glow"
# Modules and functions, by the last parts of their names.
FORBIDDEN = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "eval",
    "exec",
    "compile_command",
    "__import__",
    "enable_unsafe_deserialization",
    "extractall",
    "os.system",
    "os.popen",
    "torch.load",
    "yaml.load",
}
FORBIDDEN_ARGUMENTS = {
    "allow_pickle": True,
    "safe_mode": False,
    "shell": True,
    "weights_only": False,
}


def names(node):
    """What a piece of source refers to."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(alias.name for alias in node.names)]
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        return [node.attr, f"{owner}.{node.attr}"]
    return []


def findings(source):
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [name for name in names(node) if name in FORBIDDEN]
        if isinstance(node, ast.keyword) and node.arg in FORBIDDEN_ARGUMENTS:
            forbidden = FORBIDDEN_ARGUMENTS[node.arg]
            # A value that is not written out might be the forbidden one.
            value = getattr(node.value, "value", forbidden)
            if value is forbidden:
                found.append(node.arg)
    return found


def test_the_package_runs_nothing_from_files(record_property):
    files = sorted(PACKAGE.rglob("*.py"))
    found = {
        str(file.relative_to(PACKAGE)): uses
        for file in files
        if (uses := findings(file.read_text()))
    }
    record_property(
        "source files scanned, uses of pickle, eval and their like",
        f"{len(files)}, {len(found)}",
    )
    assert len(files) > 30
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval('1')",
        "exec(text)",
        "archive.extractall()",
        "np.load(file, allow_pickle=True)",
        "keras.saving.load_model(path, safe_mode=False)",
        "keras.saving.load_model(path, safe_mode=option)",
        "subprocess.run(command, shell=True)",
        "yaml.load(text)",
        "torch.load(path)",
        "os.system(command)",
        "keras.config.enable_unsafe_deserialization()",
    ],
)
def test_the_scan_finds(source):
    assert findings(source)
    assert not findings("np.load(file, allow_pickle=False); model.evaluate()")
