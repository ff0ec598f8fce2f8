"""The layout of the package, as `tools/house.py` measures it, has limits."""

import house
import pytest

LINES = 500  # of a file, whatever they hold
CODE = 60  # lines of code of a function


@pytest.fixture(scope="module")
def measured():
    return house.House()


def test_no_arrow_leads_upward(measured):
    assert not set(measured.upward())


def test_no_modules_import_each_other(measured):
    assert not set(measured.circles())


def test_no_file_is_too_large(measured):
    assert not {
        module.path
        for module in measured.modules.values()
        if module.text.count("\n") > LINES
    }


def test_no_function_is_too_large(measured):
    functions = measured.functions().items()
    assert not {name for name, lines in functions if lines > CODE}


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
