"""What is wrong with a text: one line that says what to do, and no run directory."""

from pathlib import Path
from typing import Any

import pytest

from experiments.text import Text
from experiments.text.sources import KNOWN_TEXTS
from jaxlstm.lab import UserError
from jaxlstm.lab.commands import main

CONFIG = """
[task]
use = "experiments.text:Text"
source = "text.txt"

[model]
hidden_size = 4

[train]
num_updates = 1
batch_size = 5
segment_length = 10
"""
NAMES = ", ".join(KNOWN_TEXTS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(CONFIG)
    (tmp_path / "text.txt").write_text("abcdefgh\n" * 200)
    return tmp_path


@pytest.fixture
def refusal(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs what must be refused, and returns the only line."""

    def run(*overrides: str) -> str:
        before = sorted(folder.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            main(["run", "c.toml", "--out", "out", *overrides])
        assert stop.value.code == 2
        assert sorted(folder.rglob("*")) == before
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("jaxlstm: ").replace(f"{folder}/", "")

    return run


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["task.source=missing.txt"],
            '[task] source = "missing.txt": no such file, nor a known text; put the '
            f"file there, or set task.source to another; use one of {NAMES}",
        ),
        (
            ["task.source=tiny_shakespear"],
            '[task] source = "tiny_shakespear": no such file, nor a known text; put '
            "the file there, or set task.source to another; did you mean "
            "tiny_shakespeare?",
        ),
        (
            ["task.source=''"],
            f"override task.source: is empty; name a file, or one of {NAMES}",
        ),
        (
            ["task.source='.'"],
            '[task] source = "FOLDER": is a folder; name a file in it',
        ),
        (
            ["task.source=/dev/null"],
            '[task] source = "/dev/null": is not a file; name one that holds a text',
        ),
        (
            ["task.source=text.txt/there"],
            '[task] source = "text.txt/there": no such file, nor a known text; put the '
            f"file there, or set task.source to another; use one of {NAMES}",
        ),
        (
            [f"task.source={'x' * 300}"],
            f'[task] source = "{"x" * 300}": cannot be read: File name too long',
        ),
        (
            ["train.batch_size=200"],
            '[task] source = "text.txt": has 1,800 symbols, and one segment of '
            "batch_size 200 x segment_length 10 to train on takes 2,224; use a longer "
            "text, or lower either",
        ),
        (
            ["train.batch_size=200", "task.split_by=rows"],
            '[task] source = "text.txt": has 1,800 symbols, and one segment of '
            "batch_size 200 x segment_length 10 to train on takes 4,001; use a longer "
            "text, or lower either",
        ),
        (
            ["task.limit=50"],
            '[task] source = "text.txt": has 50 symbols, and one segment of '
            "batch_size 5 x segment_length 10 to train on takes 57; raise "
            "task.limit, or lower either",
        ),
        (
            ["task.limit=1"],
            "[task] source = \"text.txt\": holds one symbol only, 'a': nothing is left "
            "to predict; raise task.limit",
        ),
        (
            ["task.limit=1799", "task.validation=0.02"],
            "[task] validation = 0.02: 1,799 symbols are too few for it: one segment "
            "of batch_size 5 x segment_length 10 takes 2,550; raise task.limit, lower "
            "either, set a larger fraction, or 0 for no such split",
        ),
        (
            ["task.validation=0.02"],
            "[task] validation = 0.02: 1,800 symbols are too few for it: one segment "
            "of batch_size 5 x segment_length 10 takes 2,550; use a longer text, lower "
            "either, set a larger fraction, or 0 for no such split",
        ),
        (
            ["task.test=0.02"],
            "[task] test = 0.02: 1,800 symbols are too few for it: one segment of "
            "batch_size 5 x segment_length 10 takes 2,550; use a longer text, lower "
            "either, set a larger fraction, or 0 for no such split",
        ),
        (
            ["task.validation=0.001", "task.split_by=rows"],
            "[task] validation = 0.001: 1,800 symbols are too few for it: one segment "
            "of batch_size 5 x segment_length 10 takes 50,001; use a longer text, "
            "lower either, set a larger fraction, or 0 for no such split",
        ),
        (
            ["task.validation=0.5", "task.test=0.5"],
            "override task: validation = 0.5 and test = 0.5 leave nothing to train on; "
            "lower them",
        ),
        (
            ["task.validation=1.0"],
            "override task.validation = 1.0: use a number less than 1.0",
        ),
        (
            ["task.vocabulary_size=1"],
            "override task.vocabulary_size = 1: use a number of at least 2",
        ),
        (
            ["task.unit=bytes", "task.letters_only=true"],
            "override task: letters_only: bytes are taken as they are; use unit = "
            '"characters", or leave letters_only out',
        ),
        (
            ["task.unit=bytes", "task.vocabulary_size=9"],
            "override task: vocabulary_size: bytes are taken as they are; use unit = "
            '"characters", or leave vocabulary_size out',
        ),
        (
            ["task.random_offset=true", "task.split_by=rows"],
            'override task: random_offset: needs split_by = "text"',
        ),
        (
            ["task.published=3"],
            "override task.published = 3: is not a list; write [...]",
        ),
        (
            ["task.published=[3]"],
            "override task.published[0] = 3: is not a table; write {...}",
        ),
        (
            ["task.published=[{label='a',loss=1.0,colour=2}]"],
            "override task.published[0].colour: unknown key; leave it out",
        ),
        (
            ["task.published=[{label='a',loss=1.0},{label='b'}]"],
            "override task.published[1].loss: is missing; set it",
        ),
        (
            ["task.contrast=hello"],
            'override task.contrast = "hello": is not a list; write [...]',
        ),
        (
            ["task.contrast=['a', 1]"],
            "override task.contrast[1] = 1: is not a string; put it in quotes",
        ),
        (
            ["task.contrast=['a b', ' ']"],
            "override task.contrast: sentence 2 is empty; write it, or give [] for "
            "none",
        ),
        (
            ["task.unit=lines"],
            "override task.unit = \"lines\": use 'characters', 'bytes' or 'words'",
        ),
    ],
)
def test_config_is_refused(overrides, line, refusal, folder):
    assert refusal(*overrides).replace(str(folder), "FOLDER") == line


def test_list_of_tables_has_a_line_for_each_key(folder, capsys):
    published = 'source = "text.txt"\npublished = [{label = 1, loss = "a"}]'
    config = CONFIG.replace('source = "text.txt"', published)
    (folder / "c.toml").write_text(config)
    with pytest.raises(SystemExit):
        main(["run", "c.toml", "--out", "out"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("jaxlstm: ") for line in lines] == [
        "c.toml: [task] published[0].label = 1: is not a string; put it in quotes",
        'c.toml: [task] published[0].loss = "a": is not a number',
    ]


def test_known_text_that_cannot_be_had_is_named(refusal, monkeypatch):
    monkeypatch.setenv("JAXLSTM_DATA", "nowhere")
    assert refusal("task.source=time_machine") == (
        '[task] source = "time_machine": JAXLSTM_DATA = nowhere: not a folder; name '
        "the one that holds the data, or unset the variable"
    )


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty; name a file that holds a text"),
        (
            b"abc\xff",
            'not UTF-8 at byte 3 (0xFF); save it as UTF-8, or set task.unit = "bytes"',
        ),
        (
            b"a" * 999,
            "holds one symbol only, 'a': nothing is left to predict; use another text",
        ),
    ],
)
def test_file_is_refused(data, line, refusal, folder):
    (folder / "text.txt").write_bytes(data)
    assert refusal() == f'[task] source = "text.txt": {line}'


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"random_offset": True},
        {"split_by": "rows"},
        {"validation": 0.0, "test": 0.0},
        {"validation": 0.0, "test": 0.0, "random_offset": True},
        {"validation": 0.0, "test": 0.0, "split_by": "rows"},
    ],
)
def test_as_many_symbols_as_are_asked_for_are_enough(options, folder):
    def complaint(size: int) -> str:
        path = folder / f"{size}.txt"
        path.write_text(("abcdefgh\n" * size)[:size])
        task = Text(source=str(path), **{"validation": 0.1, "test": 0.1, **options})
        try:
            task.split("train", batch_size=5, segment_length=10, seed=0)
        except UserError as error:
            return str(error)
        return ""

    needed = [30]
    while message := complaint(needed[-1]):
        number = message.partition(" takes ")[2].partition(";")[0]
        needed.append(int(number.replace(",", "")))
    assert needed == sorted(set(needed)) and len(needed) > 1
    # Of fewer rows, rounding may leave a split a segment that is more than its part.
    if options.get("split_by") != "rows":
        assert complaint(needed[-1] // 10 * 10 - 10)


def test_text_is_named_as_a_path_where_a_known_one_has_its_name(folder):
    (folder / "ptb").write_text("abcdefgh\n" * 9)
    assert Text(source="./ptb").source == str(folder / "ptb")
    assert Text(source="ptb").source == "ptb"
    assert Text(source="~/a.txt").source == str(Path.home() / "a.txt")
