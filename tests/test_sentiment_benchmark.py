"""The benchmark of sentiment: what it says of runs, and which it trains."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import sentiment


def make_run(folder, accuracy, bag, status="finished"):
    """Writes a run directory with what the benchmark reads."""
    folder.mkdir(parents=True)
    facts = {
        "id": "",
        "status": status,
        "config": "sentiment_uci",
        "import_path": [],
        "parts": {"input_size": 3, "output_size": 1},
        "data": {"bag_of_words": {"test": bag}},
        **{name: {} for name in ("settings", "versions", "flags", "devices")},
        "seconds": 1.5,
    }
    (folder / "run.json").write_text(json.dumps(facts))
    line = {"update": 1, "split": "test", "loss": 0.5, "accuracy": accuracy}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "config.toml").write_text("")


def test_the_table_is_of_all_seeds(tmp_path, capsys, monkeypatch):
    for seed, (drawn, glove, bag) in enumerate([(0.7, 0.8, 0.75), (0.8, 0.84, 0.79)]):
        make_run(tmp_path / f"drawn-{seed}", drawn, bag)
        make_run(tmp_path / f"glove-{seed}", glove, bag)
    # All is there, so that nothing is trained.
    monkeypatch.setattr(sentiment, "run_command", None)
    sentiment.main(["--out", str(tmp_path), "--seeds", "2"])
    said = capsys.readouterr().out
    assert "| net, embedding drawn | 75.0 | 7.1 | 70.0, 80.0 |" in said
    assert "| net, embedding from GloVe's 629 words | 82.0 | 2.8 | 80.0, 84.0 |" in said
    assert "| bag of words, logistic regression | 77.0 | 2.8 | 75.0, 79.0 |" in said
    assert "Training took 6 s in all" in said
    assert (tmp_path / "table.md").read_text() in said


def test_what_is_not_finished_goes_on(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sentiment, "run_command", asked.append)
    monkeypatch.setattr(sentiment, "load_run", lambda p: SimpleNamespace(path=p))
    sentiment.train(tmp_path / "new", ["seed=3"])
    monkeypatch.undo()
    monkeypatch.setattr(sentiment, "run_command", asked.append)
    make_run(tmp_path / "stopped", 0.5, 0.5, status="stopped")
    sentiment.train(tmp_path / "stopped", ["seed=3"])
    new, stopped = str(tmp_path / "new"), str(tmp_path / "stopped")
    config = str(sentiment.CONFIG)
    assert asked == [["run", config, "--out", new, "seed=3"], ["resume", stopped]]


def test_no_seed_is_refused(capsys):
    with pytest.raises(SystemExit):
        sentiment.main(["--seeds", "0"])
    assert "--seeds 0: is not positive" in capsys.readouterr().err
