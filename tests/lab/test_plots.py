"""Pictures of losses: which line is which, and what is said of what cannot be."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.plots import draw_comparison, draw_run, loss_curves
from jaxlstm.lab.report import show_figure
from jaxlstm.lab.runs import Facts
from tests.lab import tiny

PNG = b"\x89PNG"


def make_run(folder, splits=("train", "validation"), updates=(1, 2)):
    """Writes what a picture of the loss is made of, and loads it as a run."""
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(tiny.CONFIG)
    facts = {"status": "finished", "config": "tiny", "import_path": [str(tiny.ROOT)]}
    facts |= {"parts": {"input_size": 2, "output_size": 1}}
    required = [n for n, field in Facts.model_fields.items() if field.is_required()]
    facts |= {name: {} for name in required if name not in facts}
    (path / "run.json").write_text(json.dumps(facts))
    lines = [
        {"update": update, "split": split, "loss": 1 / update}
        for update in updates
        for split in splits
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text)
    return load_run(path)


def test_runs_have_a_name_and_a_colour_each_and_splits_a_line():
    runs = [make_run(name) for name in ("g/a/x", "g/b/x", "y")]
    runs.append(make_run("z", splits=("validation", "test")))
    (axes,) = loss_curves(runs).axes
    lines = {line.get_label(): line for line in axes.lines}
    first = ["a/x: train", "a/x: validation", "b/x: train", "b/x: validation"]
    rest = ["y: train", "y: validation", "z: validation", "z: test"]
    assert list(lines) == first + rest
    looks = {
        part: {str(get(line)) for name, line in lines.items() if part in name}
        for part, get in [
            *((f"{run}: ", lambda line: line.get_color()) for run in ("a/x", "y", "z")),
            *((s, lambda line: line.get_linestyle()) for s in ("train", "validation")),
        ]
    }
    assert all(len(look) == 1 for look in looks.values())
    assert len({str(line.get_color()) for line in axes.lines}) == 4
    assert len({str(line.get_linestyle()) for line in axes.lines}) == 3


def test_splits_of_one_run_have_a_colour_each():
    (axes,) = loss_curves([make_run("x")]).axes
    assert [line.get_label() for line in axes.lines] == ["train", "validation"]
    assert len({line.get_color() for line in axes.lines}) == 2
    assert {line.get_linestyle() for line in axes.lines} == {"-"}


def test_single_points_of_several_runs_can_be_told_apart():
    runs = [make_run(name, updates=[3]) for name in "xy"]
    (axes,) = loss_curves(runs).axes
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 4


def test_losses_that_are_not_finite_are_gaps(monkeypatch):
    lines = [
        {"update": n, "split": split, "loss": None if n in gaps else 0.1**n}
        for split, gaps in (("train", (3, 5)), ("validation", ()))
        for n in range(1, 7)
    ]
    monkeypatch.setattr("jaxlstm.lab.runs.read_metrics", lambda path: lines)
    (axes,) = loss_curves([make_run("x")]).axes
    train, validation = axes.lines
    losses = np.asarray(train.get_ydata())
    assert list(np.flatnonzero(np.isnan(losses)) + 1) == [3, 5]
    assert axes.get_yscale() == "log"
    # Updates 4 and 6 have nothing beside them to be joined with by a line.
    assert train.get_marker() == "o" and validation.get_marker() == "None"


def test_run_without_any_finite_loss_is_drawn(monkeypatch):
    lines = [{"update": n, "split": "train", "loss": None} for n in (1, 2)]
    monkeypatch.setattr("jaxlstm.lab.runs.read_metrics", lambda path: lines)
    (file,) = draw_run(make_run("x"))
    assert file.read_bytes().startswith(PNG)


def test_names_are_no_formulas(command):
    for name in ("$\\frac$", "a_b$^$"):
        make_run(name, splits=["$\\none$"])
    outcome = command("plot", "$\\frac$", "a_b$^$", "--out", "a.png")
    assert (outcome.code, outcome.err) == (0, "")


def test_figures_that_are_not_finite_are_said_to_be():
    assert show_figure(1 / 3) == "0.333333"
    for value in (None, math.nan, math.inf):
        assert show_figure(value) == "not finite"


def test_runs_without_metrics_are_named():
    runs = [make_run(name, updates=(1,) * (name == "y")) for name in "xyz"]
    with pytest.raises(UserError) as caught:
        loss_curves(runs)
    expected = [f"{name}: has no metrics yet; nothing to draw" for name in "xz"]
    assert list(caught.value.lines) == expected


def test_file_that_is_named_is_the_one_that_is_written(command):
    runs = [make_run("x"), make_run("y")]
    Path("adir").mkdir()
    for out, file in [("adir", "adir.png"), ("adir/v1.png", "adir/v1.png")]:
        assert command("plot", "x", "y", "--out", out).out == f"{file}\n"
        assert Path(file).read_bytes().startswith(PNG)
    (line,) = command("plot", "x", "y", "--out", "none/a.png").faults
    reason = "cannot be written: No such file or directory"
    assert line == f"--out none/a.png: {reason}"
    with pytest.raises(UserError, match=r"--out \.: cannot be written: "):
        draw_comparison(runs, Path())


def test_loss_is_drawn_though_the_task_fails(command, monkeypatch):
    def figures(self, run):
        raise UserError("the data are gone; fetch them anew")

    make_run("x")
    monkeypatch.setattr(tiny.Tiny, "figures", figures)
    outcome = command("plot", "x")
    assert (outcome.code, outcome.faults) == (2, ["the data are gone; fetch them anew"])
    assert Path("x/plots/loss.png").read_bytes().startswith(PNG)


def test_pictures_that_cannot_be_written_are_said_in_a_line(command):
    run = make_run("x")
    Path("x/plots").write_text("")
    outcome = command("plot", "x")
    assert outcome.code == 2
    assert outcome.faults == ["x/plots: cannot be written: File exists"]
    Path("x/plots").unlink()
    Path("x/plots/loss.png").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        draw_run(run)
    assert str(caught.value) == "x/plots/loss.png: cannot be written: Is a directory"
