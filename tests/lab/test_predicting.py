"""Predicting: against each text by itself, and what cannot be predicted."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlstm.lab import UserError, load_run
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from jaxlstm.lab.predicting import find_probabilities, read_texts
from jaxlstm.lab.start import create_run
from tests.lab import moods, tiny

TEXTS = "very good film", "bad", "film . very very bad film film film", "film wow bad"


def begin(labels="sad happy", config=moods.CONFIG, **facts):
    """Makes a run with a checkpoint; its data is gone."""
    Path("labels.txt").write_text(labels)
    Path("moods.toml").write_text(config)
    experiment = build(load_config(Path("moods.toml")))
    Path("run").mkdir()
    run = create_run(Path("run"), experiment)
    checkpoints = Checkpoints(run.path / "checkpoints", keep=1, run=run.facts["id"])
    checkpoints.save(run.template)
    checkpoints.close()
    run.note(**facts)
    Path("labels.txt").unlink()
    return load_run("run")


def by_itself(run, text):
    """Reads one text, word by word, without padding."""
    words = [w for w in text.replace(".", " ").split()][:5]
    symbols = [moods.WORDS.index(w) if w in moods.WORDS else 1 for w in words]
    state = run.model.initial_state(run.params, ())
    for symbol in symbols:
        state = run.model.step(run.params.recurrent, state, np.int32(symbol))
    return np.asarray(run.model.readout(run.params, state), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["sad happy", "sad happy neither"])
def test_a_text_is_predicted_as_by_itself(labels, command):
    run = begin(labels)
    tokens = [token for text in TEXTS for token in ("--text", text)]
    outcome = command("predict", "run", *tokens, "--json")
    assert outcome.code == 0 and outcome.err == ""
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["text"] for line in found] == list(TEXTS)
    for line in found:
        logits = by_itself(run, line["text"])
        if len(logits) == 1:
            logits = np.array([0.0, logits[0]])
        expected = np.exp(logits) / np.exp(logits).sum()
        shares = line["probabilities"]
        assert list(shares) == labels.split()
        np.testing.assert_allclose(list(shares.values()), expected, rtol=1e-5)
        assert line["label"] == labels.split()[int(np.argmax(expected))]
        assert line["probability"] == max(shares.values())
    plain = command("predict", "run", "--text", "very\tgood film").out
    label, probability, text = plain.removesuffix("\n").split("\t")
    assert (label, text) == (found[0]["label"], r"very\tgood film")
    assert probability == f"{found[0]['probability']:.4f}"


@pytest.mark.slow
def test_lines_of_a_file_and_of_standard_input(command, monkeypatch):
    begin()
    lines = ["good film"] * 70 + ["bad film"]
    Path("texts.txt").write_bytes("\ufeff{}\r\n".format("\n".join(lines)).encode())
    stdin = SimpleNamespace(buffer=io.BytesIO(b"very good\nbad"))
    monkeypatch.setattr(sys, "stdin", stdin)
    outcome = command("predict", "run", "--file", "texts.txt", "--text", "-")
    found = [line.split("\t") for line in outcome.out.splitlines()]
    assert [text for *_, text in found] == ["very good", "bad", *lines]
    assert len({tuple(line) for line in found[2:-1]}) == 1


@pytest.mark.slow
def test_what_cannot_be_predicted_is_a_line_each(command, config):
    begin()
    cases = {
        (): "predict: has no text; write --text TEXT",
        ("--text", " "): "--text: is empty; leave it out",
        ("--text", "bad", "--text", ""): "text 2: is empty; leave it out",
        ("--text", "bad", "--text", "..."): "text 2: holds nothing that the task reads",
        ("--file", "none.txt"): "--file none.txt: cannot be read: No such file",
    }
    for tokens, message in cases.items():
        outcome = command("predict", "run", *tokens)
        assert outcome.code == 2
        (line,) = outcome.faults
        assert line.startswith(message)
    outcome = command("sample", "run")
    assert outcome.faults[0].startswith("run: its model sorts texts, and writes none")
    outcome = command("predict", "run", "--text", "wow")
    assert outcome.code == 0 and outcome.out.endswith("\twow\n")
    assert outcome.faults == [
        "warning: --text: none of its words is in the run's vocabulary; the label says "
        "nothing of it"
    ]
    vocabulary = Path("run/vocabulary.json")
    vocabulary.unlink()
    (line,) = command("predict", "run", "--text", "bad").faults
    assert line.startswith("run/vocabulary.json: is missing")


def test_a_run_that_sorts_no_texts_is_refused(config, command):
    Path("other").mkdir()
    create_run(Path("other"), build(load_config(config)))
    (line,) = command("predict", "other", "--text", "bad").faults
    assert line.startswith(
        "other: its task sorts no texts; name a run of one that does"
    )


def test_probabilities_of_one_logit_and_of_several():
    single = find_probabilities(np.array([[0.0], [2.0], [-800.0]]))
    np.testing.assert_allclose(single[:, 1], [0.5, 1 / (1 + np.exp(-2)), 0], rtol=1e-12)
    np.testing.assert_allclose(single.sum(axis=1), 1)
    both = find_probabilities(np.log([[1.0, 2.0, 5.0]]) + 900)
    np.testing.assert_allclose(both, [[0.125, 0.25, 0.625]], rtol=1e-12)


def test_texts_have_a_place(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes(b"good\n\n\xff")
    with pytest.raises(UserError, match=r"texts.txt: not UTF-8 at byte 6; save it as"):
        read_texts([], file)
    file.write_bytes(b"good\n\nbad\n")
    with pytest.raises(UserError, match=r"texts.txt: line 2: is empty; leave it out$"):
        read_texts([], file)


def make_trainer():
    text = moods.CONFIG.replace("[model]", "vectors = 0.5\n[model]")
    Path("labels.txt").write_text("sad happy")
    Path("moods.toml").write_text(text)
    return build(load_config(Path("moods.toml"))).trainer


@pytest.mark.slow
def test_training_starts_from_what_the_task_says(config):
    trainer = make_trainer()
    drawn = trainer.model.init(jax.random.split(jax.random.key(3))[0])
    params = trainer.init(jax.random.key(3), 2).params
    rows = np.asarray(params.recurrent.embedding)
    np.testing.assert_array_equal(rows[2:4], 0.5)
    kept = np.array([0, 1, 4, 5])
    np.testing.assert_array_equal(rows[kept], drawn.recurrent.embedding[kept])
    assert tiny.Tiny().initial(drawn) is drawn


def test_other_shapes_to_start_from_are_refused(config):
    trainer = make_trainer()._replace(
        initial=lambda params: params._replace(readout=params.readout._replace(b=None))
    )
    with pytest.raises(
        UserError, match=r"the task's initial: makes nothing of readout.b"
    ):
        jax.eval_shape(trainer.first_params, jax.random.key(0))
