"""The task and the cell of the documents work from a folder of a user's own."""

import json
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
CONFIG = "echo.toml"

TITLED = re.compile(
    r'^```\w+ title="(?P<name>[\w.]+)"\n(?P<code>.*?)^```', re.MULTILINE | re.DOTALL
)


@pytest.fixture
def project(tmp_path):
    """A folder with nothing in it but the titled blocks of the documents."""
    for page in "tasks.md", "cells.md":
        for match in TITLED.finditer((DOCS / page).read_text()):
            with (tmp_path / match["name"]).open("a") as file:
                file.write(match["code"])
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"my_tasks.py", CONFIG, "words.py", "my_project.py"}
    return tmp_path


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # -P leaves the current folder out of the import path, as the console script does.
    command = [sys.executable, "-P", "-m", "jaxlstm", "run", CONFIG, "--out", "out"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True
    )


def test_documented_texts_end_with_their_last_word(project):
    encode = runpy.run_path(str(project / "words.py"))["encode"]
    vocabulary = types.SimpleNamespace(encode=lambda text: [*map(int, text)])
    inputs, mask = encode(["12345", "6"], vocabulary, 3)
    assert inputs.T.tolist() == [[1, 2, 3], [0, 0, 6]]
    assert mask.T.tolist() == [[1, 1, 1], [0, 0, 1]]


def read_metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the lines of the run's metrics by split."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for text in (folder / "out" / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        splits.setdefault(line["split"], []).append(line)
    return splits


# 16 units, blocks of [1, 16], [16, 16] and [16] for each gate, and a readout.
@pytest.mark.parametrize(
    ("task", "cell", "num_parameters", "pictures"),
    [
        ("my_tasks:Echo", "lstm", 4 * 288 + 17, {"loss"}),
        pytest.param(
            *("my_tasks:PlottedEcho", "my_project:my_cell", 2 * 288 + 17),
            {"loss", "echo"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_documented_task_is_learnt(project, task, cell, num_parameters, pictures):
    overrides = "logging.every=100", f"task.use={task}", f"model.cell={cell}"
    done = train(project, *overrides)
    assert done.returncode == 0, done.stderr
    assert f" {num_parameters:,} parameters" in (project / "out/README.md").read_text()
    assert {file.stem for file in (project / "out/plots").glob("*.png")} == pictures
    metrics = read_metrics(project)
    updates = [line["update"] for line in metrics["train"]]
    assert updates == [100, 200, 300]
    assert metrics["train"][-1]["loss"] < 0.1 * metrics["train"][0]["loss"]
    # Whoever guesses is right on half of the steps, with a squared error of 1.
    for split in "validation", "test":
        (line,) = metrics[split]
        assert line["accuracy"] == 1
        assert line["loss"] < 0.01


def test_error_of_the_task_is_one_line(project):
    done = train(project, "task.delay=12")
    assert done.returncode == 2
    assert done.stderr == "jaxlstm: [task] delay = 12: use less than a segment\n"
    assert not (project / "out").exists()
