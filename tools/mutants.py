"""Mutation testing of the modules in which an error would be hardest to see.

    KERAS_BACKEND=torch OMP_NUM_THREADS=1 python tools/mutants.py [MUTANT ...]

mutmut changes one thing at a time in the modules that `setup.cfg` names, and
runs the tests that reach it: a mutant that no test fails on survives. It goes
on where it was stopped. Prints a table in Markdown, and the survivors;
`mutmut show MUTANT` shows what was changed.

Torch runs the tests, since its processes can be forked.
"""

import collections
import inspect
import json
import pathlib
import sys

FOLDER = pathlib.Path("mutants")
OUTCOMES = {1: "killed", 3: "killed", 0: "survived", 33: "reached by no test"}


def outcomes(folder=FOLDER):
    """Returns what became of each mutant: dicts by name, by module."""
    found = {}
    for file in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(file.read_text())["exit_code_by_key"]
        module = str(file.relative_to(folder)).removesuffix(".meta")
        found[module] = {
            name: OUTCOMES.get(code, "not run" if code is None else "ended")
            for name, code in codes.items()
        }
    return found


def table(found):
    """Returns a row for each module that has mutants, and one for all."""
    names = ["killed", "survived", "reached by no test", "ended", "not run"]
    counts = {
        module: collections.Counter(mutants.values())
        for module, mutants in found.items()
        if mutants
    }
    counts["all"] = sum(counts.values(), collections.Counter())
    return "\n".join(
        [
            f"| module | {' | '.join(names)} |",
            "|---" * (len(names) + 1) + "|",
            *(
                f"| {module} | {' | '.join(str(count[n]) for n in names)} |"
                for module, count in counts.items()
            ),
        ]
    )


def main(names):
    """Runs the mutants of these names, or all that were not run."""
    from mutmut.__main__ import cli

    # Keras reads the arguments of a constructor without looking behind the
    # function that mutmut puts around it.
    arguments_of = inspect.getfullargspec
    inspect.getfullargspec = lambda f: arguments_of(inspect.unwrap(f))
    cli(["run", "--max-children=1", *names], standalone_mode=False)
    found = outcomes()
    print(table(found))
    for mutants in found.values():
        for name, outcome in mutants.items():
            if outcome not in ("killed", "not run"):
                print(f"{outcome}: {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
