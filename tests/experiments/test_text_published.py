"""Published runs on text, reproduced. The texts are found or fetched as for a user."""

from pathlib import Path

import pytest

from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main

CONFIGS = Path(__file__).parents[2] / "configs"


def run(name, folder, *overrides):
    main(["run", str(CONFIGS / f"{name}.toml"), *overrides, "--out", str(folder)])
    return load_run(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tiny_shakespeare_as_char_rnn(tmp_path):
    """Published after 1,000 iterations: 1.7732 and 1.7848, by two seeds."""
    finished = run("tiny_shakespeare", tmp_path / "run", "train.num_updates=1000")
    (line,) = [line for line in finished.metrics if line["split"] == "validation"]
    assert line["update"] == 1000
    assert line["loss"] == pytest.approx(1.78, abs=0.03)
    # One bias a gate, where char-rnn has two.
    assert "239,297 parameters" in (finished.path / "README.md").read_text()
    assert len(finished.vocabulary or ()) == 65


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_time_machine_as_dive_into_deep_learning(tmp_path):
    """Published: a training perplexity of 1.0 to 1.1 after 500 epochs."""
    finished = run("time_machine", tmp_path / "run")
    *_, line = finished.metrics
    assert (line["update"], line["split"]) == (4000, "train")
    assert line["perplexity"] < 1.1
    assert len(finished.vocabulary or ()) == 28
