"""The command line: help, `show`, and words it does not know."""

import pytest

import jaxlstm


def test_show_prints_shapes_and_their_number(config, command, tmp_path):
    outcome = command("show", config, "model.num_layers=2")
    assert outcome.code == 0
    text, _, shapes = outcome.out.partition("\n# ")
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(text)
    assert command("show", resolved).out == outcome.out
    lines = [line.strip("# ").split(maxsplit=2) for line in shapes.splitlines()]
    assert lines == [
        ["recurrent.layers.0.w_x", "float32", "[2, 12]"],
        ["recurrent.layers.0.w_h", "float32", "[3, 12]"],
        ["recurrent.layers.0.b", "float32", "[12]"],
        ["recurrent.layers.1.w_x", "float32", "[3, 12]"],
        ["recurrent.layers.1.w_h", "float32", "[3, 12]"],
        ["recurrent.layers.1.b", "float32", "[12]"],
        ["readout.w", "float32", "[3, 1]"],
        ["readout.b", "float32", "[1]"],
        # 24 + 36 + 12, 36 + 36 + 12, 3 + 1.
        ["160", "parameters"],
    ]


def test_show_in_float64(config, command):
    outcome = command("show", config, "model.dtype=float64")
    lines = [line.split(maxsplit=3) for line in outcome.out.splitlines()]
    assert ["#", "recurrent.layers.0.w_x", "float64", "[2, 12]"] in lines


def test_show_needs_something_to_show(command):
    outcome = command("show")
    assert outcome.code == 2
    assert outcome.faults == ["show: name a config file, or use --schema"]


@pytest.mark.parametrize(
    ("cell", "estimator", "fault"),
    [
        (
            ["cell=min_lstm", "engine=parallel"],
            ["name=clipped_bptt", "c=1.0"],
            'engine: the model\'s is "parallel"',
        ),
        (["cell=slstm", "heads=3"], ["name=rflo"], "rflo: is defined for one layer"),
    ],
)
def test_show_refuses_an_estimator_that_does_not_take_the_model(
    cell, estimator, fault, config, command
):
    options = [f"model.{option}" for option in cell]
    options += [f"estimator.{option}" for option in estimator]
    outcome = command("show", config, *options)
    assert outcome.code == 2
    (said,) = outcome.faults
    name = estimator[0].removeprefix("name=")
    assert said.startswith(f'[estimator] name = "{name}": {fault}')


def test_parts_that_do_not_go_together_when_compiled_are_one_line(
    config, command, tmp_path
):
    options = "model.engine=deer", "estimator.remat=step"
    outcome = command("run", config, *options, "--out", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.faults == [
        'remat: is "step", which engine "deer" does not take; use engine="scan"'
    ]


def test_unknown_words_are_one_line(config, command):
    for tokens, words in [
        (("rnu", config), ("rnu", "run")),
        (("run",), ("CONFIG",)),
        (("run", config, "--oot", "x"), ("--oot", "--out")),
        (("resume", "a", "b"), ("b",)),
    ]:
        outcome = command(*tokens)
        assert outcome.code == 2
        (line,) = outcome.faults
        assert all(word in line for word in words)


def test_help_and_version(command):
    assert command("--version").out.strip() == jaxlstm.__version__
    for tokens in ((), ("--help",)):
        out = command(*tokens).out
        for name in ("run", "resume", "eval", "plot", "show"):
            assert f" {name} " in out
    assert "section.key=value" in command("run", "--help").out
