"""Differences of two runs: keys, surroundings, figures; and runs that are the same."""

import sys
from pathlib import Path

import pytest

from jaxlstm.lab import commands
from jaxlstm.lab.difference import Difference, compare_runs
from tests.lab import tiny
from tests.lab.test_listing import LINES, line, make_run


def cells(out):
    """Returns the rows of a table as lists of words."""
    return [text.split() for text in out.splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains two runs of one config."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.toml"
    config.write_text(tiny.CONFIG)
    paths = [folder / name for name in ("first", "again")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path.copy())
        for path in paths:
            commands.main(["run", str(config), "--out", str(path)])
    return paths


def test_runs_of_one_config_differ_in_time_alone(trained, command):
    found = compare_runs(*trained)
    assert (found.config, found.surroundings, found.parting) == ([], [], None)
    assert all(figure.first == figure.second for figure in found.figures)
    assert {"last train loss", "validation loss", "validation error", "test root"} <= {
        figure.key for figure in found.figures
    }
    out = command("diff", *trained).out
    assert out.count("no difference") == 2
    assert all(row[0] == "seconds" for row in cells(out) if row[-1][0] in "+-")
    assert out.splitlines()[-1] == "nothing differs but time"


def test_keys_that_differ_are_shown_by_their_sections(command):
    make_run(
        "a", config='name = "1"\n[x]\nn = 1\nsame = [1]\nonly = 1\n[x.y]\nz = "a b"\n'
    )
    make_run(
        "b", config='name = 1\n[x]\nn = 1.0\nsame = [1]\n[x.y]\nz = "a c"\nnew = 2\n'
    )
    found = compare_runs(Path("a"), Path("b"))
    assert found.config == [
        Difference("name", "1", 1),
        Difference("x.n", 1, 1.0),
        Difference("x.only", 1, None),
        Difference("x.y.z", "a b", "a c"),
        Difference("x.y.new", None, 2),
    ]
    out = cells(command("diff", "a", "b").out)
    for row in (["name", '"1"', "1"], ["x.n", "1", "1.0"], ["x.only", "1", "-"]):
        assert row in out
    assert out[-1] == "metrics.jsonl does not differ, but in seconds".split()


@pytest.mark.parametrize("nested", [False, True])
def test_surroundings_are_shown_wherever_they_stand(nested):
    groups = {"versions": {"jax": "1"}, "devices": {"count": 1}, "data": {"sha": "a"}}
    others = {"versions": {"jax": "2"}, "devices": {"count": 1}, "data": {}}
    more = {"settings": {"seed": 1}, "changes": [1], "seed": 1, "updates": 3}
    make_run("a", **groups)
    make_run("b", **({"fingerprint": others} if nested else others), **more)
    found = compare_runs(Path("a"), Path("b"))
    assert found.surroundings == [
        Difference("versions.jax", "1", "2"),
        Difference("data.sha", "a", None),
    ]


def test_figures_are_those_of_the_best_validation(command):
    first = [
        line(2, "validation", 0.5, error=3.0),
        line(4, "train", 1.0, gradient_norm=9.0, skipped=2),
        line(4, "validation", 0.75, error=2.0),
        line(2, "test", 0.625, error=None),
    ]
    make_run("a", first)
    make_run("b", [line(2, "validation", 0.25, error=4.0), line(4, "train", 1.0)])
    out = cells(command("diff", "a", "b").out)
    assert out[out.index(["figures"]) + 1 : -2] == [
        ["updates", "4", "4", "0"],
        ["best", "at", "update", "2", "2", "0"],
        ["validation", "loss", "0.5", "0.25", "-0.25"],
        ["validation", "error", "3", "4", "+1"],
        ["last", "train", "loss", "1", "1", "0"],
        ["test", "loss", "0.625", "-", "-"],
        ["test", "error", "not", "finite", "-", "-"],
    ]
    assert "metrics.jsonl differs from update 2 on" in " ".join(out[-1])


@pytest.mark.parametrize(
    ("others", "parting"),
    [
        ([], None),
        ([line(3000, "train", 0.125)], 3000),
        ([line(3000, "train", 0.125, elapsed=1.0)], 3000),
    ],
)
def test_metrics_part_where_one_goes_on(others, parting):
    clocked = [{**x, "seconds": {"elapsed": 1.0}} for x in LINES]
    make_run("a")
    make_run("b", [*clocked, *others])
    for pair in (("a", "b"), ("b", "a")):
        assert compare_runs(*map(Path, pair)).parting == parting


def test_run_without_metrics_is_compared(command):
    make_run("a")
    (make_run("b") / "metrics.jsonl").unlink()
    outcome = command("diff", "a", "b")
    assert outcome.code == 0, outcome.err
    assert ["updates", "2,000", "0", "-2,000"] in cells(outcome.out)
    assert ["validation", "loss", "0.5", "-", "-"] in cells(outcome.out)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("run.json", None, "b: not a run directory; it has no run.json"),
        ("config.toml", None, "b: not a run directory; it has no config.toml"),
        ("run.json", "{", "b/run.json: is not a JSON file; bring back what it held"),
        ("run.json", "{}", "b/run.json: has no status; bring back what it held"),
        ("config.toml", "=", "b/config.toml: is not a TOML file; bring back"),
        ("metrics.jsonl", "x\n", "b/metrics.jsonl: line 1 is not a JSON object"),
    ],
)
def test_what_is_no_sound_run_is_said_in_a_line(command, file, text, words):
    make_run("a")
    path = make_run("b") / file
    path.unlink()
    if text is not None:
        path.write_text(text)
    for pair in (("a", "b"), ("b", "a"), ("b", "b")):
        outcome = command("diff", *pair)
        assert outcome.code == 2 and not outcome.out
        (fault,) = outcome.faults
        assert fault.startswith(words)


def test_both_runs_that_are_wrong_are_said(command):
    Path("empty").mkdir()
    outcome = command("diff", "empty", "none")
    assert outcome.code == 2
    assert outcome.faults == [
        "empty: not a run directory; it has no config.toml",
        "none: no such run directory",
    ]
