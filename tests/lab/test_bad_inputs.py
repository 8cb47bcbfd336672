"""Nonsense, over all commands: one line that names the place and the remedy.

A row of BAD is a command line, what is made of the folder it runs in, and what its line
has to hold. The folder has a text, two configs, and a finished run of each: `text`,
which has a vocabulary, and `tiny`. Whatever is asked of it, nothing in it may change.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from jaxlstm.lab import commands
from tests.lab import tiny

TEXT = """
[task]
use = "experiments.text:Text"
source = "text.txt"
contrast = []

[model]
hidden_size = 4

[train]
num_updates = 2
batch_size = 2
segment_length = 4
"""
RUNS = {"text": TEXT, "tiny": tiny.CONFIG}
# Holds no data, and may come and go while a run is looked at.
PASSING = ".lock", "__pycache__"

Prepare = Callable[[Path], object]


class Bad(NamedTuple):
    """A bad input.

    Attributes:
      name: of the test.
      tokens: the command line.
      words: what its line has to hold, in this order.
      prepare: is given the folder, before the command runs in it.
      lines: how many things are wrong.
    """

    name: str
    tokens: tuple[str, ...]
    words: tuple[str, ...]
    prepare: Prepare = lambda folder: None
    lines: int = 1


def write(name: str, content: str | bytes) -> Prepare:
    """Writes a file, with the folders above it."""

    def prepare(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def replace(name: str, old: str, new: str) -> Prepare:
    """Replaces what stands in a file."""

    def prepare(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return prepare


def remove(name: str) -> Prepare:
    """Removes a file or a folder."""

    def prepare(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return prepare


def facts(run: str, **changes: object) -> Prepare:
    """Changes run.json; what is None there is left out."""

    def prepare(folder: Path) -> None:
        path = folder / run / "run.json"
        values = json.loads(path.read_text()) | changes
        kept = {name: value for name, value in values.items() if value is not None}
        path.write_text(json.dumps(kept))

    return prepare


def several(*steps: Prepare) -> Prepare:
    """Does one after the other."""

    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def of(command: str, *rows: tuple) -> list[Bad]:
    """Returns rows (name, further tokens, words, ...) of one command."""
    first, *rest = command.split()
    return [
        Bad(f"{first}: {name}", (first, *rest, *tokens), words, *more)
        for name, tokens, words, *more in rows
    ]


def config(name: str, content: str | bytes, *words: str, lines: int = 1) -> Bad:
    """Returns the row of a config file."""
    return Bad(
        f"config: {name}",
        ("run", "bad.toml"),
        ("bad.toml: ", *words),
        write("bad.toml", content),
        lines,
    )


def module(name: str, text: str | bytes, *words: str) -> Bad:
    """Returns the row of a module that cannot be imported."""
    return Bad(
        f"module: {name}",
        ("run", "tiny.toml", "task.use=bad_module:Mine"),
        ('task.use = "bad_module:Mine": ', *words),
        write("bad_module.py", text),
    )


NAMED = "name a function of the form"
BUILT_IN = f"is built into Python, and does not say what it takes; {NAMED}"
SET_BACK = "bring back what it held"

CONFIGS = [
    Bad("config: missing", ("run", "none.toml"), ("none.toml: no such file; configs",)),
    Bad("config: a folder", ("show", "text"), ("text: is a folder; name a config",)),
    Bad("config: a long name", ("run", "x" * 300), ("File name too long; name a",)),
    Bad(
        "config: no path", ("run", "a\0b"), ("a\\x00b: is not a path: ", "name a file")
    ),
    Bad(
        "config: of the device for nothing",
        ("run", os.devnull),
        ("task: is missing; write [task] use = ",),
        lines=3,
    ),
    config("empty", "", "task: is missing; write [task] use = ", lines=3),
    config("binary", bytes(range(256)), "not UTF-8 at byte 128; save it as UTF-8"),
    config("in Latin-1", '# \xe9\n[task]\nuse = "a:b"'.encode("latin-1"), "at byte 2"),
    config("YAML", "task:\n  use: a\n", "not valid TOML: ", "(at line 1, column 5)"),
    config("a value without quotes", "[task]\nuse = a:b\n", "(at line 2, column 7)"),
    config("a key twice", "seed = 1\nseed = 2\n", "Cannot overwrite", "at line 2"),
    config("a section twice", "[task]\n[task]\n", "Cannot declare", "at line 2"),
    config("nested lists", f"a = {'[' * 9999}", "nested too deeply; a config is flat"),
    config("nested tables", "a = " + "{a = " * 9999, "nested too deeply"),
    config("too many digits", f"seed = {'9' * 5000}", "not valid TOML: Exceeds"),
    config("a key of no letter", '"" = 1\n' + tiny.CONFIG, '"": unknown key'),
    config("a key of two lines", '"a\\nb" = 1\n' + tiny.CONFIG, r'"a\nb": unknown key'),
    config("a list of sections", "[[task]]\n" + tiny.CONFIG[7:], "task = [{...}]: "),
    config("a long key", "x" * 9999 + " = 1\n" + tiny.CONFIG, "xxx ... xxx", "unknown"),
]

OVERRIDES = of(
    "run tiny.toml",
    ("unknown section", ["trian.num_updates=3"], ["trian: unknown key", "mean train?"]),
    ("unknown key", ["train.num_update=3"], ["unknown key; did you mean num_updates?"]),
    ("wrong type", ["train.num_updates='9'"], ['num_updates = "9": is not an integer']),
    ("fraction", ["model.hidden_size=4.5"], ["hidden_size = 4.5: is not an integer"]),
    ("out of range", ["model.dropout=1.0"], ["dropout = 1.0: use a number less than"]),
    ("nan", ["optimizer.learning_rate=nan"], ["nan: is not a finite number"]),
    ("infinity", ["task.scale=-inf"], ["task.scale = -inf: is not a finite number"]),
    ("beyond floats", ["task.scale=1e999"], ["task.scale = inf: is not a finite"]),
    ("negative seed", ["seed=-1"], ["seed = -1: use a number of at least 0"]),
    ("giant seed", [f"seed={2**32}"], ["use a number less than 4294967296"]),
    ("giant size", [f"model.hidden_size={10**40}"], ["hidden_size = 1000", "at most"]),
    ("giant batch", [f"train.batch_size={10**40}"], ["batch_size = 1000", "at most"]),
    ("giant count", [f"train.num_updates={2**31}"], ["a number less than 2147483648"]),
    ("giant wait", [f"optimizer.schedule.warmup={10**40}"], ["less than 2147483648"]),
    ("date", ["seed=2020-01-01"], ["seed = 2020-01-01: is not an integer"]),
    ("time", ["train.num_updates=10:30:00"], ["10:30:00: is not an integer"]),
    ("table for a number", ["seed={a=1}"], ["seed = {...}: is not an integer"]),
    ("number for a section", ["train=3"], ["train = 3: is not a section; write ["]),
    ("section without a key", ["model={}"], ["model.hidden_size: is missing; set it"]),
    ("long value", [f"model.dtype={'x' * 9999}"], ["xxx ... xxx", "use 'float32' or"]),
    ("two lines", ['model.cell="a\\nb"'], ['model.cell = "a\\nb"', "unknown; use one"]),
    ("no value sign", ["hidden_size"], ["'hidden_size': not of the form section.key"]),
    ("no key", ["=3"], ["override '=3': not of the form section.key=value"]),
    ("nothing", [""], ["override '': not of the form section.key=value, such as"]),
    ("key of two lines", ["a\nb=3"], [r"override 'a\nb=3': not of the form"]),
    ("twice", ["seed=1", "seed=2"], ["override 'seed=2': seed is given twice; keep"]),
    (
        "undone",
        ["optimizer.clip.norm=1.0", "optimizer.clip={value=2.0}"],
        ["would undo override optimizer.clip.norm; put it first"],
    ),
    (
        "key of a number",
        ["train.num_updates.x=3"],
        ["num_updates is not a section; gi"],
    ),
    ("blank", ["model.cell=my cell"], ["'my cell' is not a TOML value; ", "in quotes"]),
    ("thousands", ["train.num_updates=1,000"], ["not a TOML value; write numbers as"]),
    ("octal", ["seed=010"], ["'010' is not a TOML value; write numbers as 1000"]),
    ("no nought", ["model.dropout=.5"], ["'.5' is not a TOML value; write numbers as"]),
    ("half a list", ["task.scale=[1, 2"], ["'[1, 2' is not a TOML value; write"]),
    ("deep", [f"seed={'[' * 5000}"], ["[[[ ... [[[", "is not a TOML value"]),
    ("two values", ["seed=1\nmodel.cell=2"], ["holds more than one value; write one"]),
    ("no UTF-8", ["model.cell='\udcff'"], [r"'\udcff'", "is not UTF-8; write it as"]),
    ("True", ["model.tied=True"], ["'True' is not a TOML value; write true;"]),
    ("None", ["train.eval_every=None"], ["to remove the key, write train.eval_every="]),
    ("removal of no key", ["train.num_epoch="], ["there is no ", "mean num_epochs?"]),
    ("removal of a must", ["train.segment_length="], ["is missing; set it"]),
    (
        "both lengths",
        ["train.num_epochs=2"],
        ["not both; an override train.num_updates="],
    ),
    (
        "no length",
        ["train.num_updates="],
        ["[train]: set one of num_updates and num_e"],
    ),
    (
        "epochs of a stream",
        ["train.num_updates=", "train.num_epochs=1"],
        ["set num_up"],
    ),
    (
        "patience",
        ["train.eval_every=", "train.patience=1"],
        ["eval_every is not set; s"],
    ),
    ("devices", ["devices=3"], ["a batch of 2 does not divide over them; change"]),
    (
        "many devices",
        ["devices=64", "train.batch_size=64"],
        ["there are ", "use fewer"],
    ),
    (
        "unknown option",
        ["model.forget_bais=1.0"],
        ["unknown key; did you mean forget_b"],
    ),
    ("option of another", ["optimizer.decay=0.5"], ["decay: unknown key; use one of"]),
    (
        "option of the estimator",
        ["estimator.remat=all"],
        ["use 'none', 'step', 'sqrt'"],
    ),
    (
        "option of the cell",
        ["model.cell=leaky_rnn", "model.leak=2.0"],
        ["not in (0, 1]"],
    ),
    (
        "option that the cell's name stands for",
        ["model.cell=slstm", "model.multiplicative=true", "model.hidden_size=8"],
        ['override model.cell = "slstm": heads: 4 does not go with multiplicative'],
    ),
    ("command's option", ["--seed", "3"], ["Unknown option: --seed"]),
)

NAMES = [
    *of(
        "run tiny.toml",
        ("no import path", ["task.use=tiny"], ['write "package.module:name"']),
        ("no module", ["task.use=nowhere:C"], ["no module nowhere; it is looked for"]),
        ("no name", ["task.use=tests.lab.tiny:Tiney"], ["did you mean Tiny?"]),
        ("no task", ["task.use=os:system"], ["is not a class derived from Task"]),
        (
            "Task itself",
            ["task.use=jaxlstm.lab:Task"],
            ["not a class derived from Task"],
        ),
        (
            "unknown cell",
            ["model.cell=lstn"],
            ["unknown; did you mean lstm? (or write"],
        ),
        (
            "cell of a number",
            ["model.cell=math:pi"],
            ["is not a function; name one of"],
        ),
        ("cell that is built in", ["model.cell=sys:exit"], [f"{BUILT_IN} (*, ...)"]),
        ("cell of arguments", ["model.cell=os:makedirs"], ["takes (name, ", NAMED]),
        ("cell of another kind", ["model.cell=pathlib:Path"], ["does not make a Cell"]),
        (
            "estimator that is built in",
            ["estimator.name=math:sin"],
            [f'"math:sin": {BUILT_IN} (model, loss_fn, *, ...)'],
        ),
        (
            "estimator of one",
            ["estimator.name=os:fspath"],
            ["(model, loss_fn, *, ...)"],
        ),
        (
            "estimator of none",
            ["estimator.name=collections:ChainMap"],
            ["does not make a Gr"],
        ),
        (
            "optimizer that is built in",
            ["optimizer.name=os:system"],
            [f'"os:system": {BUILT_IN} (learning_rate, *, ...)'],
        ),
        (
            "optimizer of two",
            ["optimizer.name=shutil:copy"],
            ["takes (src, dst", NAMED],
        ),
        (
            "optimizer of another kind",
            ["optimizer.name=collections:ChainMap"],
            ['"collections:ChainMap": does not make an optax GradientTransformation'],
        ),
    ),
    module("syntax", "def f(:\n", "bad_module.py:1: SyntaxError: ", "; mend it"),
    module("raises", "\nraise ValueError('no')", "bad_module.py:2: ValueError: no; "),
    module("exits", "import sys\nsys.exit(0)", "bad_module.py:2: SystemExit: 0; mend"),
    module("lacks", "import not_there", "1: ModuleNotFoundError: No module", "mend it"),
    module("is not UTF-8", b"a = '\xff'\n", "SyntaxError: (unicode error)", "mend it"),
    module("is binary", b"a = 1\0\n", "bad_module: SyntaxError: ", "null bytes"),
]

OUT = of(
    "run tiny.toml --out",
    ("out is a file", ["text.txt"], ["--out text.txt: is not an empty folder; name"]),
    ("out is not empty", ["."], ["--out .: is not an empty folder; name another one"]),
    ("out is a run", ["tiny"], ["holds another run; go on with `jaxlstm resume tiny`"]),
    ("out is a pattern", ["a[1]"], ["holds [ ], ", "name another folder"]),
    (
        "out is below a file",
        ["text.txt/x"],
        ["text.txt is no folder; name another one"],
    ),
    (
        "out is below a device",
        [f"{os.devnull}/x"],
        ["--out ", " is no folder; name another one"],
    ),
    ("out twice", ["a", "--out", "b"], ["--out specified multiple times"]),
    ("out is long", [300 * "a"], ["no name for a folder: ", "File name too long"]),
    ("out is no text", ["\udcff"], ["no name for a folder: ", "surrogates not allow"]),
    ("out has a NUL", ["a\0b"], ["no name for a folder: ", "null"]),
)

DATA = of(
    "run text.toml",
    (
        "data missing",
        ["task.source=none.txt"],
        ["none.txt", "no such file, nor a known"],
    ),
    (
        "data misspelt",
        ["task.source=tiny_shakespear"],
        ["did you mean tiny_shakespeare"],
    ),
    ("data in a folder", ["task.source=."], ["is a folder; name a file in it"]),
    ("data on a device", ["task.source=/dev/zero"], ["is not a file; name one that"]),
    ("no user's data", ["task.source=~nobody.here/a"], ["no such user", "whole path"]),
    ("data of no name", ["task.source=''"], ["is empty; name a file, or one of"]),
    ("data of no path", [r'task.source="a\u0000b"'], ['b": no such file']),
    (
        "empty data",
        [],
        ['text.txt": is empty; name a file that holds a text'],
        write("text.txt", b""),
    ),
    (
        "data of one symbol",
        [],
        ["holds one symbol only, 'a'", "use another text"],
        write("text.txt", b"a" * 999),
    ),
    (
        "data of blanks",
        ["task.unit=words"],
        ["holds no words; use another text"],
        write("text.txt", b" \t " * 99),
    ),
    (
        "data too short",
        ["train.batch_size=64"],
        [
            "440 symbols are too few for it: one segment of batch_size 64",
            "lower either",
        ],
    ),
    (
        "binary data",
        [],
        ['not UTF-8 at byte 128 (0x80); save it as UTF-8, or set task.unit = "bytes"'],
        write("text.txt", bytes(range(256)) * 9),
    ),
    ("known data missing", ["task.source=ptb"], ["ptb.train.txt: not found; "]),
    (
        "known data changed",
        ["task.source=time_machine"],
        ["data/timemachine.txt: is another file: its sha256 is ", "replace it"],
        write("data/timemachine.txt", b"The Time Machine\n"),
    ),
    (
        "known data an HTML page",
        ["task.source=time_machine"],
        ["is an HTML page in place of data; replace it"],
        write("data/timemachine.txt", b"<!DOCTYPE html><title>404</title>"),
    ),
)

FOLDERS = [
    row
    for command in ("resume", "eval", "plot", "sample")
    for row in of(
        command,
        ("no such run", ["none"], ["none: no such run directory"]),
        ("run is a file", ["text.txt"], ["text.txt: no such run directory"]),
        ("run is a folder", ["data"], ["data: not a run directory; it has no "]),
    )
]

DAMAGED = [
    row
    for command in ("resume", "eval", "sample")
    for row in of(
        f"{command} text",
        ("no run.json", [], ["it has no run.json"], remove("text/run.json")),
        ("run.json cut", [], ["run.json: not JSON: "], write("text/run.json", "{")),
        (
            "run.json no text",
            [],
            ["run.json: not JSON"],
            write("text/run.json", b"\xff"),
        ),
        ("run.json a list", [], ["is damaged", SET_BACK], write("text/run.json", "[]")),
        (
            "run.json lacks parts",
            [],
            ["text/run.json: is damaged: parts is missing or wrong", SET_BACK],
            facts("text", parts=None),
        ),
        (
            "run.json of other parts",
            [],
            ["text/run.json: is damaged: parts.input_size is missing", SET_BACK],
            facts("text", parts={"size": 3}),
        ),
        (
            "run.json of another type",
            [],
            ["text/run.json: is damaged: data is missing or wrong", SET_BACK],
            facts("text", data=[]),
        ),
    )
]

DAMAGED += [
    row
    for command in ("eval text", "sample text", "plot text")
    for row in of(
        command,
        (
            "config.toml cut",
            [],
            ["text/config.toml: not valid TOML"],
            write("text/config.toml", "[task"),
        ),
        (
            "config.toml empty",
            [],
            ["text/config.toml: task: is missing"],
            write("text/config.toml", ""),
            3,
        ),
        (
            "config.toml edited",
            [],
            ["text/config.toml: [model] hidden_size = 0: use a number greater"],
            replace("text/config.toml", "hidden_size = 4", "hidden_size = 0"),
        ),
    )
]

DAMAGED += [
    *of(
        "resume text",
        (
            "allowance of nothing",
            ["--allow-change", "model.hiden_size"],
            ["--allow-change model.hiden_size: is no key", "did you mean model.hidden"],
        ),
        ("allowance without", ["--allow-change"], ["requires an argument"]),
        (
            "another seed",
            [],
            ["text: seed was 0 when the run began and is 1; bring", "change seed"],
            replace("text/config.toml", "seed = 0", "seed = 1"),
        ),
        (
            "another version",
            [],
            ["text: versions.jax was '0' when the run began", "versions.jax"],
            several(
                facts("text", status="stopped"),
                replace("text/run.json", f'"jax": "{jax.__version__}"', '"jax": "0"'),
            ),
        ),
        (
            "run.json nested",
            [],
            ["text/run.json: not JSON: "],
            write("text/run.json", 100_000 * "["),
        ),
        (
            "run.json of negative sizes",
            [],
            ["text/run.json: is damaged: parts.input_size is missing or wrong"],
            facts("text", parts={"input_size": -1, "output_size": 1}),
        ),
    ),
    *[
        row
        for command in ("resume", "eval", "plot", "sample", "list", "diff tiny")
        for row in of(command, ("long name", [300 * "a"], ["File name too long"]))
    ],
    *of(
        "eval text",
        ("split", ["--split", "tests"], ["split 'tests': the task has train, valid"]),
        ("checkpoint", ["--checkpoint", "worst"], ['"worst" for --checkpoint']),
        ("nothing", ["--split"], ["--split", "requires an argument"]),
        (
            "no checkpoint",
            [],
            ["text/checkpoints: holds no checkpoint; `jaxlstm resume` begins anew"],
            remove("text/checkpoints"),
        ),
        (
            "another model",
            [],
            [
                "text/checkpoints/latest/2: ",
                " is float32[28, 16], and the config asks for",
            ],
            replace("text/config.toml", "hidden_size = 4", "hidden_size = 5"),
        ),
        (
            "data changed",
            [],
            ["text: the data has changed since the run began: ", "bring the data back"],
            facts("text", data={"sha256": "0"}),
        ),
    ),
    *of(
        "eval tiny",
        ("stream", ["--split", "train"], ["--split train: a stream without end; use"]),
    ),
    *of(
        "plot tiny",
        ("out of one run", ["--out", "a.png"], ["pictures go to tiny/plots; leave it"]),
        ("kind of picture", ["text", "--out", "a.docx"], ["--out a.docx: cannot be"]),
        ("nowhere", ["text", "--out", "none/a.png"], ["--out none/a.png: cannot be"]),
        (
            "no metrics",
            [],
            ["metrics.jsonl: no such file"],
            remove("tiny/metrics.jsonl"),
        ),
        (
            "metrics damaged",
            [],
            ["tiny/metrics.jsonl: line 1 is not a JSON object", "remove it"],
            write("tiny/metrics.jsonl", b"\xff\n"),
        ),
        (
            "metrics of other types",
            [],
            ["tiny/metrics.jsonl: line 2 is not a JSON object", "remove it"],
            write(
                "tiny/metrics.jsonl",
                '{"update": 1, "split": "train", "loss": 1.0}\n'
                '{"update": "2", "split": "train", "loss": 1.0}\n',
            ),
        ),
        (
            "no line of metrics",
            [],
            ["tiny: has no metrics yet; nothing to draw"],
            write("tiny/metrics.jsonl", ""),
        ),
    ),
]

SAMPLES = [
    *of(
        "sample text",
        ("length", ["--length", "-1"], ["--length -1: has to be 1 or more"]),
        ("length of words", ["--length", "many"], ["for --length: unable to convert"]),
        (
            "no samples",
            ["--num-samples", "0"],
            ["--num-samples 0: has to be 1 or more"],
        ),
        ("many", ["--num-samples", "99999999"], ["fit into 1 GiB", "use at most that"]),
        (
            "temperature 0",
            ["--temperature", "0"],
            ["has to be above 0", "use --greedy"],
        ),
        ("temperature nan", ["--temperature", "nan"], ["is not a number; write one"]),
        (
            "temperature inf",
            ["--temperature", "inf"],
            ["has to be 1e-06 or more, and f"],
        ),
        ("top-p", ["--top-p", "1.5"], ["--top-p 1.5: has to be above 0 and at most 1"]),
        ("top-k", ["--top-k", "0"], ["--top-k 0: has to be 1 or more"]),
        ("top-k of more", ["--top-k", "99"], ["the model has 28 symbols; use at most"]),
        ("greedy", ["--greedy", "--top-k", "2"], ["takes no --top-k; leave one out"]),
        ("seed", ["--seed", "-3"], ["--seed -3: has to be in 0 ... 4294967295"]),
        ("empty prompt", ["--prompt", ""], ["holds no characters; write some"]),
        (
            "prompt",
            ["--prompt", "Öl"],
            ["'Ö' (U+00D6) at position 0", "leave it out"],
        ),
        ("checkpoint", ["--checkpoint", "first"], ['"first" for --checkpoint']),
        (
            "vocabulary missing",
            [],
            ["text/vocabulary.json: is missing; put back the file"],
            remove("text/vocabulary.json"),
        ),
        (
            "vocabulary damaged",
            [],
            ["text/vocabulary.json: damaged: ", "put back the file"],
            write("text/vocabulary.json", '{"unit": "characters", "symbols": ["ab"]}'),
        ),
        (
            "vocabulary of another text",
            [],
            ["has 1 symbols, and the model 28; put back the file"],
            write("text/vocabulary.json", '{"unit": "characters", "symbols": ["a"]}'),
        ),
        (
            "no vocabulary at all",
            [],
            ["text: has no vocabulary, for its task says nothing of what its symbols"],
            several(
                remove("text/vocabulary.json"),
                replace("text/config.toml", "experiments.text:Text", "mute:Mute"),
                write(
                    "mute.py",
                    "from experiments.text import Text\nfrom jaxlstm.lab import Task\n"
                    "class Mute(Text):\n    vocabulary = Task.vocabulary\n",
                ),
                lambda folder: facts("text", import_path=[str(folder)])(folder),
            ),
        ),
    ),
    *of("sample tiny", ("no text", [], ["has no vocabulary, for its task is none on"])),
]

SHOWN = [
    *of(
        "list",
        ("no folder", ["none"], ["none: no such folder; name the one that holds"]),
        ("a file", ["text.txt"], ["text.txt: no such folder; name the one"]),
        ("no run", ["data"], ["data: holds no run; name another folder, or make"]),
        ("sort", [".", "--sort", "size"], ['"size" for --sort. Choose from']),
    ),
    *of(
        "diff tiny",
        ("one run", [], ["SECOND requires an argument"]),
        ("no such run", ["none"], ["none: no such run directory"]),
        ("a file", ["text.txt"], ["text.txt: no such run directory"]),
        (
            "damaged",
            ["text"],
            ["text/run.json: is not a JSON file; bring back what it held"],
            write("text/run.json", "{"),
        ),
    ),
    *of("show", ("nothing", [], ["show: name a config file, or use --schema"])),
    *of("show tiny.toml", ("nonsense", ["seed=x"], ['seed = "x": is not an integer'])),
    *of("show none.toml", ("schema", ["--schema"], ["none.toml: no such file; con"])),
    Bad("command", ("rnu", "tiny.toml"), ('"rnu"', 'Did you mean "run"')),
    Bad("option", ("run", "tiny.toml", "--oot", "x"), ("--oot", "--out")),
    Bad("no run", ("resume",), ("RUN", "requires an argument")),
    Bad("two runs", ("resume", "text", "tiny"), ("tiny",)),
]

BAD = [*CONFIGS, *OVERRIDES, *NAMES, *OUT, *DATA, *FOLDERS, *DAMAGED, *SAMPLES, *SHOWN]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the folder that is copied for each row."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(
        "the quick brown fox jumps over the lazy dog\n" * 10
    )
    (folder / "data").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", sys.path.copy())
        for name, text in RUNS.items():
            (folder / f"{name}.toml").write_text(text)
            with contextlib.suppress(SystemExit):
                commands.main(["run", f"{name}.toml", "--out", name])
    for name in RUNS:
        assert (folder / name / "checkpoints").is_dir()
        path = folder / name / "run.json"
        # A finished run is not gone on with, whatever is wrong with it.
        path.write_text(path.read_text().replace('"finished"', '"stopped"'))
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a copy of that folder the current one."""
    copy = tmp_path / "work"
    shutil.copytree(prepared, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("JAXLSTM_DATA", str(copy / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("bad_module", "mute"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return copy


def snapshot(folder: Path) -> dict[str, str]:
    """Returns the hash of each file in a folder, and the names of all folders."""
    return {
        str(path): ""
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if not set(PASSING) & set(path.parts)
    }


def check(bad: Bad, code: int, out: str, err: str) -> None:
    """Checks what a command came to."""
    assert (code, out) == (2, ""), err
    lines = err.splitlines()
    assert len(lines) == bad.lines
    for line in lines:
        assert line.startswith("jaxlstm: ") and len(line) < 2000
    place = 0
    for word in bad.words:
        assert word in lines[0][place:]
        place = lines[0].index(word, place) + len(word)


def test_names_tell_rows_apart():
    assert len({bad.name for bad in BAD}) == len(BAD) >= 60
    assert {bad.tokens[0] for bad in BAD} >= {
        *("run", "resume", "eval", "plot", "show", "sample", "list", "diff")
    }


# Each third in the quick tests, all of them in the slow ones.
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(bad, id=bad.name, marks=[pytest.mark.slow] if n % 3 else [])
        for n, bad in enumerate(BAD)
    ],
)
def test_bad_input_is_one_line(bad, folder, command):
    bad.prepare(folder)
    before = snapshot(folder)
    check(bad, *command(*bad.tokens))
    assert snapshot(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "config: nested lists",
        "run: cell that is built in",
        "module: exits",
        "eval: run.json cut",
        "plot: nowhere",
        "sample: prompt",
    ],
)
def test_bad_input_in_a_process_of_its_own(name, folder):
    (bad,) = [bad for bad in BAD if bad.name == name]
    bad.prepare(folder)
    before = snapshot(folder)
    process = subprocess.run(
        [sys.executable, "-m", "jaxlstm", *bad.tokens],
        env=os.environ | {"PYTHONPATH": str(tiny.ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    check(bad, process.returncode, process.stdout, process.stderr)
    assert snapshot(folder) == before
