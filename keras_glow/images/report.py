"""Reports which files of a folder can be used as images, and which cannot."""

import dataclasses
import os

from keras_glow.checks import printable_path
from keras_glow.images.decoding import SUFFIXES


@dataclasses.dataclass
class Report:
    """What a folder or an `.npz` file holds.

    Attributes:
        path: str, the folder or the file.
        images: int, how many can be used.
        bad: list of (name, reason): images that cannot be used. Names are
            relative to the folder.
        skipped: list of (name, reason): entries that were not opened.
        notes: list of (name, note): images that can be used, and how they were
            changed.
        duplicates: int, files with the same content as an earlier one.
        others: int, files that are no images and do not look like any.
        names: list of str, the images of a folder that can be used, in the
            order in which they are loaded, relative to it.
    """

    path: str
    images: int = 0
    bad: list = dataclasses.field(default_factory=list)
    skipped: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    duplicates: int = 0
    others: int = 0
    names: list = dataclasses.field(default_factory=list)

    def problem(self) -> str | None:
        """Return one line on every bad file, or None if all is well."""
        if self.bad:
            return (
                f"{len(self.bad)} of {self.images + len(self.bad)} files in "
                f"{printable_path(self.path)} cannot be used as images: "
                + "; ".join(self._lines(self.bad))
            )
        if not self.images:
            return (
                f"{printable_path(self.path)} is expected to hold images "
                f"({', '.join(SUFFIXES)}), and holds none"
                + "".join(f"; {line}" for line in self._lines(self.skipped))
            )
        return None

    def summary(self) -> str:
        """Return one line with the counts."""
        counts = (
            (len(self.bad), "cannot be used"),
            (len(self.skipped), "skipped"),
            (self.duplicates, "the same as another"),
            (len({name for name, _ in self.notes}), "with a note"),
            (self.others, "other files"),
        )
        more = [f"{count} {outcome}" for count, outcome in counts if count]
        return ", ".join([f"{self.images} images", *more])

    def lines(self, notes: bool = True) -> list[str]:
        """Return a line for each finding, bad files first, then the summary."""
        kinds = [("bad", self.bad), ("skipped", self.skipped)]
        if notes:
            kinds.append(("note", self.notes))
        return [
            *(
                f"{kind}: {line}"
                for kind, findings in kinds
                for line in self._lines(findings)
            ),
            self.summary(),
        ]

    def _lines(self, findings):
        for name, text in findings:
            path = os.path.join(self.path, name) if name else self.path
            yield f"{printable_path(path)} {text}"
