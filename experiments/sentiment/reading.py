"""Labelled texts as they are found: folders, tables and lines."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.files import decode, shorten
from jaxlstm.lab import UserError

Format = Literal["text_label", "label_text", "csv", "json"]

# Reviews of aclImdb that have no label.
_UNLABELLED = "unsup"
_ENDINGS: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "json"}
_NAMES = "task.text_column and task.label_column"
_ADVICE: dict[Format, str] = {
    "text_label": 'task.format = "label_text"',
    "label_text": 'task.format = "text_label"',
    "csv": _NAMES,
    "json": _NAMES,
}


class Example(NamedTuple):
    """A labelled text.

    Attributes:
      text: the text.
      label: the name of its class.
      where: its file and line, for errors.
    """

    text: str
    label: str
    where: str


class Layout(NamedTuple):
    """How a file of texts is read.

    Attributes:
      format: "text_label" or "label_text": a line each, with a tabulator in between;
        "csv": a table under a line of names; "json": a JSON object a line. None: by
        the file's ending, "text_label" if that says nothing.
      text_column: the name of the column or key that holds texts.
      label_column: of the one that holds labels.
    """

    format: Format | None = None
    text_column: str = "text"
    label_column: str = "label"


def has_test(source: Path) -> bool:
    """Returns whether a source is a folder with a part that tests."""
    return (source / "train").is_dir() and (source / "test").is_dir()


def find_format(path: Path, layout: Layout) -> Format:
    """Returns how a file is read."""
    return layout.format or _ENDINGS.get(path.suffix.lower(), "text_label")


def advise(path: Path, layout: Layout) -> str:
    """Returns what to set where what has been read as labels are none."""
    if path.is_dir():
        return "task.source to a folder that holds a folder a class"
    return _ADVICE[find_format(path, layout)]


def read_examples(where: str, path: Path, layout: Layout) -> list[Example]:
    """Reads the labelled texts of a file, or of a folder with a folder a class.

    Args:
      where: the key and its value, for errors.
      path: of a folder, whose folders are the classes and hold a file.txt a text; or of
        a file.
      layout: how a file is read.

    Raises:
      UserError: there is none, or it is not what it should be; says where.
    """
    try:
        if path.is_dir():
            examples = list(_read_folder(where, path))
        elif not path.exists():
            raise UserError(
                f"{where}: no such file or folder; put it there, or name another"
            )
        else:
            kind = find_format(path, layout)
            examples = list(_READERS[kind](path, _read(path), layout))
    except OSError as error:
        raise UserError(f"{where}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{where}: is not a path: {error}") from None
    if not examples:
        raise UserError(f"{where}: holds no texts; name a file that holds some")
    for example in examples:
        if not example.text.strip():
            raise UserError(f"{example.where}: the text is empty; remove it")
        if not example.label:
            raise UserError(f"{example.where}: the label is empty; give one")
    return examples


def _read(path: Path) -> str:
    return decode(path.read_bytes(), str(path)).replace("\r\n", "\n")


def _read_folder(where: str, path: Path) -> Iterator[Example]:
    folders = [
        folder
        for folder in sorted(path.iterdir())
        if folder.is_dir() and folder.name != _UNLABELLED
    ]
    files = [file for folder in folders for file in sorted(folder.glob("*.txt"))]
    if not files:
        raise UserError(
            f"{where}: holds no folders of .txt files, such as pos and neg; name one "
            "that does"
        )
    for file in files:
        yield Example(_read(file), file.parent.name, str(file))


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yields the lines of a file, and where they stand."""
    # Only a line feed ends a line: texts hold other signs that Python would split at.
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        if text:
            yield line, f"{path}: line {number}"


def _read_tabbed(path: Path, text: str, layout: Layout) -> Iterator[Example]:
    label_first = layout.format == "label_text"
    form = "label TAB text" if label_first else "text TAB label"
    for line, where in _lines(path, text):
        parts = line.split("\t")
        if len(parts) != 2:
            raise UserError(
                f"{where}: has {len(parts) - 1} tabulators, and `{form}` one; mend it, "
                "or set task.format"
            )
        first, second = parts
        words, label = (second, first) if label_first else (first, second)
        yield Example(words, label.strip(), where)


def _read_csv(path: Path, text: str, layout: Layout) -> Iterator[Example]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(rows, [])
        columns = [
            _find_column(path, names, key, getattr(layout, key))
            for key in ("text_column", "label_column")
        ]
        begins = rows.line_num + 1
        for row in rows:
            where, begins = f"{path}: line {begins}", rows.line_num + 1
            if not row:
                continue
            if len(row) != len(names):
                raise UserError(
                    f"{where}: has {len(row)} values, and the line of names "
                    f"{len(names)}; mend it"
                )
            words, label = (row[n] for n in columns)
            yield Example(words, label.strip(), where)
    except csv.Error as error:
        raise UserError(
            f"{path}: line {rows.line_num}: not CSV: {error}; mend it"
        ) from None


def _read_json(path: Path, text: str, layout: Layout) -> Iterator[Example]:
    for line, where in _lines(path, text):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON: {error}; mend it") from None
        if not isinstance(values, dict):
            raise UserError(f"{where}: is no JSON object; write {{...}} on each line")
        words, label = (
            values.get(name) for name in (layout.text_column, layout.label_column)
        )
        if not isinstance(words, str):
            raise UserError(
                f'{where}: "{layout.text_column}" is no text; mend it, or set '
                f"task.text_column to one of {', '.join(values)}"
            )
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise UserError(
                f'{where}: "{layout.label_column}" is no text, nor an integer; mend '
                f"it, or set task.label_column to one of {', '.join(values)}"
            )
        yield Example(words, str(label).strip(), where)


def _find_column(path: Path, names: list[str], key: str, name: str) -> int:
    if names.count(name) != 1:
        fault = "has more than one column" if name in names else "has no column"
        known = ", ".join(map(shorten, dict.fromkeys(names)))
        others = shorten(known, 200) or "the names that it lacks"
        raise UserError(
            f'{path}: line 1: {fault} "{name}"; set task.{key} to one of {others}'
        )
    return names.index(name)


_READERS: dict[Format, Callable[[Path, str, Layout], Iterator[Example]]] = {
    "text_label": _read_tabbed,
    "label_text": _read_tabbed,
    "csv": _read_csv,
    "json": _read_json,
}
