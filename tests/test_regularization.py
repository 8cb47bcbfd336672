"""What dropout and penalties cost an update, by the benchmark of it."""

import pytest

from benchmarks import regularization
from benchmarks.char_lm import read_config

SIZE = "T=3,B=2,X=9,H=4,L=2"


@pytest.mark.slow
def test_ways_are_set_against_the_plain_one(capsys, monkeypatch):
    names = [regularization.PLAIN, "penalties"]
    ways = {name: regularization.WAYS[name] for name in names}
    monkeypatch.setattr(regularization, "WAYS", ways)
    regularization.main(["--size", SIZE, "--rounds", "1", "--updates", "1"])
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith(f"{SIZE}, jax")
    rows = {line[:28].strip(): list(map(float, line[28:].split())) for line in lines}
    assert list(rows) == names
    passed, ratio, processor, ratio_processor = rows[regularization.PLAIN]
    assert passed > 0 and processor > 0
    assert ratio == ratio_processor == 1
    assert all(len(row) == 4 and min(row) > 0 for row in rows.values())


def test_ways_leave_out_what_they_say():
    size = {"T": 3, "B": 2, "X": 9, "H": 4, "L": 2}
    sections = {
        name: read_config("awd_lstm_char", size, overrides).sections
        for name, overrides in regularization.WAYS.items()
    }
    rates = {
        name: {
            key: rate for key, rate in found.model.dropout.model_dump().items() if rate
        }
        for name, found in sections.items()
    }
    assert rates[regularization.PLAIN] == rates["penalties"] == {}
    assert rates["weight drop"] == {"weights": 0.2}
    masks = rates["three masks, one a step"]
    assert rates["three masks, one a segment"] == masks | {"variational": True}
    whole = rates["three masks, one a segment"] | rates["weight drop"]
    assert rates["the config"] == whole | {"embedding": 0.01}
    penalised = {
        name for name, found in sections.items() if found.estimator.model_extra
    }
    assert penalised == {"penalties", "the config"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "T=3,B=2"],
        ["--size", "T=0,B=2,X=9,H=4,L=2"],
        ["--size", "many"],
        ["--rounds", "0"],
        ["--updates", "0"],
    ],
)
def test_sizes_out_of_range_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        regularization.main(arguments)
    assert f"{arguments[0]} {arguments[1]}" in capsys.readouterr().err
