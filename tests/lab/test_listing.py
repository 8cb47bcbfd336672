"""Lists of runs: what each row says, and what is said of damaged runs."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from jaxlstm.lab import UserError
from jaxlstm.lab.listing import list_runs, print_runs
from jaxlstm.lab.lock import hold

FACTS = {"status": "finished", "seconds": 75.0, "updates": 2000}
CONFIG = '[task]\nuse = "gone.away:Task"\n[train]\nnum_updates = 2_000\n'
FILES = ("config.toml", "run.json", "metrics.jsonl")


def line(update, split, loss, elapsed=None, **others):
    clock = {} if elapsed is None else {"seconds": {"elapsed": elapsed}}
    return {"update": update, "split": split, "loss": loss, **others, **clock}


LINES = [line(1000, "validation", 0.5), line(2000, "train", 0.25)]


def make_run(folder, lines=LINES, config=CONFIG, written=1e9, **facts):
    """Writes the files of a run whose task is gone."""
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "config.toml").write_text(config)
    (path / "run.json").write_text(json.dumps(FACTS | facts))
    (path / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    for name in FILES:
        os.utime(path / name, (written, written))
    return path


def rows(out):
    """Returns the cells of each row of a table by its run; the heads left out."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()[2:]}


def test_row_says_what_the_files_say(command):
    make_run("runs/a-b")
    outcome = command("list")
    assert outcome.code == 0, outcome.err
    heads, names = outcome.out.splitlines()[:2]
    assert heads.split() == ["best", "validation"]
    assert names.split() == ["run", "status", "updates", "loss", "time", "written"]
    cells = ["finished", "2,000", "0.5", "at", "1,000", "0:01:15", "2001-09-09"]
    assert rows(outcome.out) == {"a-b": cells}


@pytest.mark.parametrize(
    ("noted", "idle", "at_work"),
    [
        ("finished", "finished", "finished"),
        ("running", "killed", "running"),
        ("stopped", "stopped", "running"),
        ("failed", "failed", "running"),
    ],
)
def test_status_tells_who_is_at_work(noted, idle, at_work):
    folder = make_run("runs/x", status=noted)
    assert list_runs(Path("runs"))[0].status == idle
    with hold(folder):
        assert list_runs(Path("runs"))[0].status == at_work
    # The file of the lock is still there.
    assert list_runs(Path("runs"))[0].status == idle


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        (
            [
                line(1, "validation", 0.75),
                line(2, "validation", 0.5),
                line(3, "validation", 0.5),
                line(4, "validation", 0.625),
                line(4, "test", 0.25),
                line(4, "train", 0.125),
            ],
            ["0.5", "at", "2"],
        ),
        (
            [line(3, "train", 1), line(6, "train", 2), line(6, "test", 3)],
            ["train", "2"],
        ),
        ([line(6, "test", 3)], ["-"]),
        ([], ["-"]),
    ],
)
def test_loss_is_the_best_of_validation_or_else_the_last_of_training(
    command, lines, shown
):
    make_run("runs/x", lines)
    assert rows(command("list").out)["x"][2:-2] == shown


@pytest.mark.parametrize(
    ("facts", "train", "lines", "checkpoints", "shown"),
    [
        ({"updates": 2000}, "num_updates = 2_000", LINES, [], "2,000"),
        ({}, "num_updates = 2_000", LINES[:1], [], "1,000/2,000"),
        ({}, "num_updates = 2_000", LINES[:1], [900, 1100], "1,100/2,000"),
        ({}, "num_updates = 2_000", [], [], "0/2,000"),
        ({"num_updates": 3000}, "num_epochs = 3", LINES, [], "2,000/3,000"),
        ({"updates": 2500}, "num_epochs = 3", LINES, [], "2,500"),
    ],
)
def test_updates_that_were_made_of_those_to_make(
    facts, train, lines, checkpoints, shown
):
    facts = {"updates": None} | facts
    folder = make_run("x", lines, config=f"[train]\n{train}\n", **facts)
    for number in checkpoints:
        (folder / "checkpoints/latest" / str(number)).mkdir(parents=True)
    (row,) = list_runs(folder)
    assert row.updates == shown


@pytest.mark.parametrize(
    ("clocks", "noted", "spent"),
    [
        ([], 75.0, 75),
        ([10, 20], 75.0, 75),
        # The session was killed: run.json tells of none.
        ([10, 20], None, 20),
        # Three sessions, each with a clock of its own.
        ([10, 20, 5, 15, 3], 1.5, 38),
    ],
)
def test_time_is_that_of_all_sessions(clocks, noted, spent):
    lines = [line(n, "train", 1, elapsed) for n, elapsed in enumerate(clocks)]
    (row,) = list_runs(make_run("x", lines, seconds=noted))
    assert row.seconds == spent


def test_runs_are_found_two_folders_deep_and_behind_no_link():
    make_run("else/where")
    for name in ("runs/a", "runs/sweep/b", "runs/sweep/deep/c"):
        make_run(name)
    Path("runs/notes").mkdir()
    Path("runs/file").write_text("")
    Path("runs/link").symlink_to(Path("else").resolve())
    Path("runs/sweep/link").symlink_to(Path("else/where").resolve())
    assert {row.name for row in list_runs(Path("runs"))} == {"a", "sweep/b"}
    assert [row.name for row in list_runs(Path("runs/sweep/b"))] == ["runs/sweep/b"]
    found = {row.name for row in list_runs(Path())}
    assert found == {"runs/a", "else/where"}


def test_order_is_that_of_time_or_of_the_loss(command):
    for name, written, loss in [("a", 3, 0.5), ("b", 1, 0.25), ("c", 2, 0.75)]:
        make_run(f"runs/{name}", [line(1, "validation", loss)], written=1e9 + written)
    make_run("runs/none", [], written=1e9 + 4)
    assert list(rows(command("list").out)) == ["b", "c", "a", "none"]
    by_loss = command("list", "runs", "--sort", "loss").out
    assert list(rows(by_loss)) == ["none", "c", "a", "b"]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("run.json", "{", "run.json: is not a JSON file"),
        ("run.json", "[]", "run.json: is not a JSON file"),
        ("run.json", "[" * 10**5, "run.json: is not a JSON file"),
        ("run.json", "\udcff", "run.json: is not a JSON file"),
        ("run.json", '{"status": 1}', "run.json: has no status"),
        ("run.json", None, "run.json: is missing"),
        ("config.toml", "a = ", "config.toml: is not a TOML file"),
        ("config.toml", f"a = {'[' * 10**5}", "config.toml: is not a TOML file"),
        ("config.toml", "a." * 5000 + "a = 1", "config.toml: is not a TOML file"),
        ("config.toml", None, "config.toml: is missing"),
        ("metrics.jsonl", "{}\n", "metrics.jsonl: line 1 is not a JSON object"),
    ],
)
def test_damaged_run_is_a_row_that_says_so(command, file, text, words):
    make_run("runs/sound", written=1e9)
    path = make_run("runs/x", written=1e9) / file
    path.unlink()
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    outcome = command("list")
    assert outcome.code == 0, outcome.err
    assert words in next(x for x in outcome.out.splitlines() if x.startswith("x "))
    found = rows(outcome.out)
    assert found["sound"][0] == "finished"
    assert found["x"][0] == ("damaged" if file == "run.json" else "finished")


def test_what_is_no_file_is_not_read(command):
    path = make_run("runs/x")
    for name in ("run.json", "config.toml"):
        (path / name).unlink()
        os.mkfifo(path / name)
    out = command("list").out
    assert "run.json: is not a file, config.toml: is not a file" in out


def test_line_that_is_cut_short_is_no_damage():
    path = make_run("x") / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"update": 3000, "split": "val')
    (row,) = list_runs(Path("x"))
    assert (row.fault, row.updates) == ("", "2,000")


def test_names_are_whole_in_a_pipe_and_on_a_terminal(command):
    name = "-".join(["sine_cosine-20260705-120000", *"abcdefghijklmnopqrstuvwxyz"])
    make_run(f"runs/{name}")
    make_run("runs/broken")
    Path("runs/broken/run.json").write_text("{")
    out = command("list").out
    assert any(text.startswith(f"{name} ") for text in out.splitlines())

    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    print_runs(console, list_runs(Path("runs")))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    width = len(lines[1]) - len(lines[1].removeprefix("run").lstrip())
    assert name in "".join(text[:width].strip() for text in lines)
    assert "0:01:15" in file.getvalue() and "2001-09-09" in file.getvalue()
    assert "…" not in file.getvalue()


def test_no_name_commands_the_terminal(command):
    make_run("runs/\x1b[2J\n[bold]x", status="\x1b[31mred")
    out = command("list").out
    assert "\\x1b[2J\\n[bold]x" in out and "\\x1b[31mred" in out
    assert "\x1b" not in out and len(out.splitlines()) == 3


def test_folder_without_runs_is_said_in_a_line(command, tmp_path):
    (tmp_path / "empty/inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, words in [
        ("empty", "empty: holds no run; name another folder, or make a run by "),
        ("none", "none: no such folder; name the one that holds the runs"),
        ("file", "file: no such folder"),
    ]:
        outcome = command("list", name)
        assert outcome.code == 2
        (fault,) = outcome.faults
        assert fault.startswith(words)
    with pytest.raises(UserError, match=r"^runs: no such folder"):
        list_runs(Path("runs"))
    assert command("list", "empty", "--sort", "size").code == 2
