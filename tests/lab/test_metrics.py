"""Metrics files: JSON lines, and what TensorBoard is given."""

import json
import math
import sys
import types
from pathlib import Path

import pytest

from jaxlstm.lab import UserError
from jaxlstm.lab.metrics import JsonLines, TensorBoard, cut_metrics, read_metrics

LINES = [
    {"update": 5, "split": "train", "loss": 0.1, "seconds": {"elapsed": 1.0}},
    {"update": 5, "split": "validation", "loss": 1 / 3},
    {"update": 10, "split": "train", "loss": 1e-30},
    {"update": 10, "split": "validation", "loss": 0.25},
]
# Written at the end, of the parameters that were best.
END = {"update": 5, "split": "test", "loss": 0.5}


def write(path, lines=LINES):
    writer = JsonLines(path)
    for line in lines:
        values = {k: v for k, v in line.items() if k not in ("update", "split")}
        writer.write(line["update"], line["split"], values)
    writer.close()


def test_lines_are_read_as_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, LINES[:1])
    write(path, LINES[1:])
    assert read_metrics(path) == LINES


def test_lines_are_on_disk_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    writer.write(3, "train", {"loss": 2.0})
    assert json.loads(path.read_text()) == {"update": 3, "split": "train", "loss": 2.0}
    writer.close()


@pytest.mark.parametrize(("update", "kept"), [(11, 4), (10, 4), (9, 2), (5, 2), (4, 0)])
def test_cut_drops_what_is_made_again(update, kept, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [*LINES, END])
    with path.open("a") as file:
        file.write('{"update": 4, "spl')
    cut_metrics(path, update)
    assert read_metrics(path) == LINES[:kept]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cut_of_a_file_that_is_not_there(tmp_path):
    cut_metrics(tmp_path / "metrics.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match="no such file; is"):
        read_metrics(path)
    write(path)
    with path.open("a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match="line 5 is not a JSON object with update"):
        read_metrics(path)


@pytest.mark.parametrize(
    "line", [b"3", b"{}", b"\xff", b'{"update": 1, "split": "train"}', b"null"]
)
def test_lines_of_another_kind_are_named(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, LINES[:2])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match="line 3 is not a JSON object with update"):
        read_metrics(path)
    with pytest.raises(UserError, match="line 3 is not a JSON object with update"):
        cut_metrics(path, 5)


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, LINES[:2])
    # Half a number is JSON as well, and another number.
    with path.open("a") as file:
        file.write('{"update": 4, "split": "train", "loss": 1.25}')
    assert read_metrics(path) == LINES[:2]
    cut_metrics(path, 5)
    assert path.read_bytes().count(b"\n") == 2


def test_what_is_not_finite_is_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonLines(path)
    writer.write(1, "train", {"loss": 800.0, "perplexity": math.inf, "root": math.nan})
    writer.close()
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        **{"update": 1, "split": "train", "loss": 800.0},
        **{"perplexity": None, "root": None},
    }


@pytest.mark.parametrize(
    "line",
    [
        '{"update": -1, "split": "train", "loss": 1.0}',
        '{"update": 9223372036854775808, "split": "train", "loss": 1.0}',
        '{"update": true, "split": "train", "loss": 1.0}',
        '{"update": 1, "split": "tr\\ud800n", "loss": 1.0}',
        '{"update": 1, "split": "train", "loss": 1.0, "gradient_norm": 1e999}',
        "[" * 100_000,
    ],
)
def test_lines_that_nobody_wrote(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match="line 1 is not a JSON object with update"):
        read_metrics(path)


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "1e999", "true", "1" + 400 * "0"])
def test_losses_that_are_no_numbers(loss, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"update": 1, "split": "train", "loss": {loss}}}\n')
    with pytest.raises(UserError, match="line 1 is not a JSON object with update"):
        read_metrics(path)


def test_full_disk_is_one_line():
    writer = JsonLines(Path("/dev/full"))
    with pytest.raises(UserError, match="/dev/full: cannot be written: No space left"):
        writer.write(1, "train", {"loss": 1.0})
    writer.close()


def test_tensorboard_gets_all_but_the_clock(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, update):
            calls.append((name, value, update))

        def close(self):
            calls.append("closed")

    stub = types.ModuleType("tensorboardX")
    stub.__dict__.update(SummaryWriter=SummaryWriter, __spec__="found")
    monkeypatch.setitem(sys.modules, "tensorboardX", stub)
    writer = TensorBoard(tmp_path, 7)
    writer.write(8, "train", {"loss": 0.5, "root": 0.25, "seconds": {"elapsed": 1}})
    writer.close()
    assert calls == [
        (str(tmp_path), 8),
        ("train/loss", 0.5, 8),
        ("train/root", 0.25, 8),
        "closed",
    ]


def test_tensorboard_that_is_not_installed(config, command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    outcome = command("run", config, "logging.tensorboard=true", "--out", "out")
    assert outcome.code == 2
    (line,) = outcome.faults
    assert line.startswith("logging.tensorboard = true: tensorboardX is not installed;")
    assert not (tmp_path / "out").exists()
