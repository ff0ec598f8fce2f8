"""The layout of the package, as `tools/house.py` measures it, has limits."""

import house
import pytest

LINES = 500  # of a file, whatever they hold
CODE = 60  # lines of code of a function
# What is over them today. A line that is no longer needed must go, so that
# these lists only become shorter.
UPWARD = {("checks", "losses"), ("files.strict_reader", "glow")}
CIRCLES = {("files.presets", "files.strict_reader", "glow")}
LARGE_FILES = {"analysis/diagnosis.py", "cli/main.py", "glow.py"}
LARGE_FUNCTIONS = {
    "cli/main.py: _add_train",
    "glow.py: Glow.__init__",
    "glow.py: Glow.fit",
}


@pytest.fixture(scope="module")
def measured():
    return house.House()


def check(found, exceptions):
    assert not found - exceptions, "new"
    assert not exceptions - found, "no longer there: take it off the list above"


def test_no_arrow_leads_upward(measured):
    check(set(measured.upward()), UPWARD)


def test_no_modules_import_each_other(measured):
    check(set(measured.circles()), CIRCLES)


def test_no_file_is_too_large(measured):
    large = {
        module.path
        for module in measured.modules.values()
        if module.text.count("\n") > LINES
    }
    check(large, LARGE_FILES)


def test_no_function_is_too_large(measured):
    functions = measured.functions().items()
    check({name for name, lines in functions if lines > CODE}, LARGE_FUNCTIONS)


def test_the_order_names_the_rooms_there_are(measured):
    assert not set(measured.rooms()) - set(house.ORDER)


def test_the_measure_sees(tmp_path):
    files = {
        "__init__.py": "from house import glow, layers\n",
        "checks.py": "def f():\n    from house.glow import Glow\n",
        "glow.py": "import house.files.atomic\nfrom . import checks, losses\n",
        "losses.py": "from .checks import f\n",
        "attic.py": "from numpy import house, layers\n",
        "files/__init__.py": "",
        "files/atomic.py": '"""Text."""\n\ndef f():\n    """More."""\n'
        "    # Why\n\n    return (\n        1\n    )\n",
        "layers/__init__.py": "from house.layers.split import Split\n",
        "layers/split.py": "from house.files import atomic\nimport house.cli\n"
        "class Split:\n    def call(self):\n        def inner(): pass\n",
        "cli/__init__.py": "",
        "cli/page/style.css": "a {\n}\n",
    }
    for name, text in files.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = house.House(tmp_path / "house")
    assert found.upward() == [("checks", "glow"), ("layers.split", "cli")]
    assert found.circles() == [("checks", "glow", "losses")]
    assert found.room_arrows() == {
        *(("__init__", "glow"), ("__init__", "layers"), ("checks", "glow")),
        *(("glow", "files"), ("glow", "checks"), ("glow", "losses")),
        *(("losses", "checks"), ("layers", "files"), ("layers", "cli")),
    }
    assert found.functions() == {
        "checks.py: f": 2,
        "files/atomic.py: f": 4,
        "layers/split.py: Split.call": 2,
        "layers/split.py: Split.call.inner": 1,
    }
    assert found.rooms()["layers"] == 6
    assert list(found.rooms())[-1] == "attic"
    assert "| entries at the top | 8 |" in house.table(found)
