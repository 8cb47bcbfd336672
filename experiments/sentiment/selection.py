"""Which texts train, validate and test."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.sentiment.corpus import check_labels, find_classes, split_evenly
from experiments.sentiment.reading import (
    Example,
    Layout,
    advise,
    has_test,
    read_examples,
)
from experiments.sentiment.sources import CLASSES, UCI, UCI_FILES
from jaxlstm.lab import UserError, generator
from jaxlstm.lab.data import find_file

SPLITS: tuple[str, ...] = ("train", "validation", "test")
TEST = 0.2


@dataclass(frozen=True)
class Selection:
    """Where texts are, and how they are divided.

    Attributes are the keys of the task.
    """

    source: str
    test_source: str | None
    layout: Layout
    classes: Sequence[str] | None
    validation: float
    test: float | None
    split_seed: int

    @property
    def shares(self) -> tuple[float, float]:
        """Of validation and test, in the texts that are divided."""
        if self.test is not None:
            return self.validation, self.test
        return self.validation, 0.0 if self._apart else TEST

    @property
    def splits(self) -> tuple[str, ...]:
        """Validation and test, where they have texts."""
        validation, test = self.shares
        there = validation > 0, test > 0 or self._apart is not None
        return tuple(n for n, has in zip(SPLITS[1:], there, strict=True) if has)

    def read(self) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
        """Returns the names of the classes, and the texts of each split.

        Raises:
          UserError: texts cannot be read, or there are too few.
        """
        where = f"[task] source = {quote(self.source)}"
        path, apart = Path(self.source), self._apart
        if apart is not None and self.test is not None:
            raise UserError(
                f"[task] test = {self.test}: the texts that test are apart, at "
                f"{apart}; leave it out"
            )
        if self.source == UCI:
            examples = _read_uci(where)
        else:
            folder = path / "train"
            path = folder if has_test(path) else path
            examples = read_examples(where, path, self.layout)
        given = CLASSES if self.source == UCI else self.classes
        classes = find_classes(where, examples, given, advise(path, self.layout))
        split = self._divide(examples, classes)
        if apart is not None:
            if self.test_source is not None:
                where = f"[task] test_source = {quote(self.test_source)}"
            split["test"] = read_examples(where, apart, self.layout)
            check_labels(split["test"], classes)
        for name in ("train", *self.splits):
            if not split[name]:
                raise UserError(
                    f"{where}: of {len(examples)} texts none is left for {name}; use "
                    "more texts, or other fractions in task.validation and task.test"
                )
        return classes, {name: split[name] for name in ("train", *self.splits)}

    @property
    def _apart(self) -> Path | None:
        """The path of the texts that test, if they are apart."""
        if self.test_source is not None:
            return Path(self.test_source)
        inside = self.source != UCI and has_test(Path(self.source))
        return Path(self.source) / "test" if inside else None

    def _divide(
        self, examples: Sequence[Example], classes: Sequence[str]
    ) -> dict[str, list[Example]]:
        numbers: Mapping[str, int] = {name: n for n, name in enumerate(classes)}
        labels = np.array([numbers[example.label] for example in examples])
        random = generator(self.split_seed, "split")
        rows = split_evenly(labels, self.shares, random)
        parts = [[examples[n] for n in part] for part in rows]
        return dict(zip(SPLITS, parts, strict=True))


def quote(text: str) -> str:
    """Returns a text as TOML would write it."""
    return json.dumps(text, ensure_ascii=False)


def _read_uci(where: str) -> list[Example]:
    examples = []
    for file in UCI_FILES:
        try:
            path = find_file(file)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        examples += read_examples(where, path, Layout("text_label"))
    return examples
