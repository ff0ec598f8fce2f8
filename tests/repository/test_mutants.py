"""What `tools/mutants.py` makes of the files that mutmut leaves."""

import configparser
import json

import mutants
from helpers import ROOT


def test_mutants_are_counted_by_module(tmp_path):
    codes = {"a.x_1": 1, "a.x_2": 0, "a.x_3": 33, "a.x_4": None, "a.x_5": -24}
    for name, exit_codes in (("a", codes), ("b", {"b.x_1": 3}), ("c", {})):
        text = json.dumps({"exit_code_by_key": exit_codes})
        (tmp_path / f"{name}.py.meta").write_text(text)
    found = mutants.outcomes(tmp_path)
    assert found["a.py"]["a.x_2"] == "survived"
    assert mutants.table(found).splitlines()[2:] == [
        "| a.py | 1 | 1 | 1 | 1 | 1 |",
        "| b.py | 1 | 0 | 0 | 0 | 0 |",
        "| all | 2 | 1 | 1 | 1 | 1 |",
    ]


def test_the_files_and_tests_that_setup_cfg_names_are_there():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    settings = config["mutmut"]
    for name in ("only_mutate", "pytest_add_cli_args_test_selection"):
        for pattern in settings[name].split():
            assert list(ROOT.glob(pattern)), pattern
    left_out = settings["pytest_add_cli_args"].split("--deselect=")[1:]
    for test in left_out:
        file, name = test.strip().split("::")
        assert f"def {name}(" in (ROOT / file).read_text(), test
