"""Pictures of what a net remembers of a text, against planted units and equations."""

import functools
import json
from collections.abc import Mapping

import jax
import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from experiments.text import Text
from experiments.text.agreement import align, compare, fit, verdict
from experiments.text.drawing import draw_agreement, label_of
from experiments.text.features import explain, features
from experiments.text.memory import (
    Recording,
    Unit,
    activations,
    choose_units,
    find_window,
    gates,
    pick,
    record,
)
from jaxlstm.cells import CELLS, make_gru, make_lstm
from jaxlstm.lab import Vocabulary, load_run
from jaxlstm.lab.commands import main
from jaxlstm.model import ModelParams, RecurrentParams, make_model

LETTERS = Vocabulary("characters", tuple('\n "abcdefghijklmnopqrstuvwxyz'))
H = 8
CELL = make_lstm()


def net(cell=CELL, **options):
    size = len(LETTERS)
    options = {"hidden_size": H, **options}
    model = make_model(cell, input_size=size, output_size=size, **options)
    # Compiled: eager initialisers take longer.
    params = jax.jit(model.init)(jax.random.key(0))
    return model, jax.tree.map(np.array, params)


def plant(params, unit, values: Mapping[str, float], *, toggle: bool = False):
    """Lets a unit hold a value from one of some signs to the next of them.

    With `toggle` it then holds 1 and -1 in turn.
    """
    w_x, w_h, b = params.recurrent.layers[0]
    i, f, g, o = (unit + n * H for n in range(4))
    for column, bias in ((i, -20), (f, 20), (g, 4 * toggle), (o, 20)):
        w_x[:, column] = w_h[:, column] = 0
        b[column] = bias
    for sign, value in values.items():
        (number,) = LETTERS.encode(sign)
        w_x[number, [i, f]] = 40, -40
        w_x[number, g] = 0 if toggle else 20 * value
    if toggle:
        w_h[unit, g] = -20


def quoted_text(random, periods=12):
    """Returns a text whose quotes stand 120 signs apart, then 60."""
    signs = random.choice(list("abcdefghijklmnopqrstuvwxyz "), (periods, 180))
    signs[:, [119, 179]] = '"'
    return "".join(signs.ravel())


def test_units_that_hold_long_are_chosen_and_explained():
    model, params = net(inputs="one_hot")
    text = quoted_text(np.random.default_rng(0))
    plant(params, 5, {'"': 0}, toggle=True)
    # Its copy tells nothing more; and one that flickers has the larger variance.
    plant(params, 2, {'"': 0}, toggle=True)
    plant(params, 3, {s: 1 if s in "aeioubdgklm" else -1 for s in LETTERS.symbols})
    symbols = LETTERS.encode(text)[:, None]
    values = activations(CELL, record(model, params, symbols))
    held, flickering = values[:, 0, 0, 5], values[:, 0, 0, 3]
    assert flickering.var() > held.var() > 0.2
    units = choose_units(values, 8, 280, 3)
    assert units[0] == Unit(0, 2)
    assert len(units) == 3 and Unit(0, 5) not in units

    found = explain(held[:, None], [list(text)])
    assert found is not None and found.feature == "inside quotes"
    assert found.correlation > 0.95
    noise = np.random.default_rng(1).normal(size=(len(text), 1))
    assert explain(noise, [list(text)]) is None


def test_a_unit_that_changes_between_windows_alone_is_not_chosen():
    values = np.random.default_rng(0).uniform(-0.1, 0.1, (400, 2, 1, 3))
    values[:200, ..., 1] += 0.9
    values[:, :, 0, 2] += np.sign(np.sin(np.arange(400) / 10))[:, None] / 2
    assert choose_units(values, 5, 100, 1) == [Unit(0, 2)]
    assert choose_units(values, 5, 400, 1) == [Unit(0, 1)]


def test_features_of_a_text():
    text = 'A "b (c\n\n  de. "f"'
    found = features(list(text))
    expected = {
        "inside quotes": "001111110000000110",
        "inside brackets": "000001111000000000"[:8] + "0" * 10,
        "position in the line": "       00123456789",
        "capitals": "1" + "0" * 17,
        "a paragraph's first line": " " * 8 + "1" * 10,
        "a line's indentation": " " * 7 + "0011" + "0" * 7,
    }
    for name, digits in expected.items():
        # A blank stands where a feature is unknown.
        values = [np.nan if digit == " " else int(digit) for digit in digits]
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def drift(length):
    return np.linspace(-1, 1, length)[:, None]


def fade(length):
    return np.exp(-np.arange(length) / 8)[:, None]


@pytest.mark.parametrize("held", [drift, fade])
@pytest.mark.parametrize("text", ["abc def\n" * 40, "abc def " * 40, "a" * 300])
def test_what_a_text_lacks_explains_no_unit(held, text):
    """Neither slow drift nor what is left of the first state is a place in it."""
    assert explain(held(len(text)), [text]) is None
    assert explain(np.tile(held(len(text)), 2), [text, text[1:] + "b"]) is None
    # Even one at the end, before which nothing is known.
    assert explain(held(len(text)), [text[:-4] + ".\n\n "]) is None


def test_places_are_found_though_a_row_begins_amid_them():
    text = "ab cde. fg hi jklm.\n" * 12
    for name in ("sentence", "line", "word"):
        place = features(text)[f"position in the {name}"]
        # What a unit holds before the first of them does not count.
        place = np.nan_to_num(place, nan=50)[:, None]
        found = explain(place, [text])
        assert found is not None and found.feature == f"position in the {name}"
        assert found.correlation > 0.999


def test_the_window_in_which_units_change_most():
    random = np.random.default_rng(0)
    values, begins = random.normal(size=(30, 3, 2)), random.random((30, 3)) < 0.3

    def best(allowed):
        change = {
            (row, start): values[start : start + 7, row].var(axis=0).sum()
            for row in range(3)
            for start in range(24)
            if allowed[start, row]
        }
        return max(change, key=lambda place: change[place])

    assert find_window(values, begins, 7) == best(begins)
    late = np.arange(30)[:, None] > np.full(3, 23)
    assert find_window(values, late, 7) == best(~late)


@pytest.mark.parametrize("inputs", ["one_hot", "embedding"])
def test_gates_by_their_equations(inputs):
    model, params = net(inputs=inputs, num_layers=2)
    symbols = np.random.default_rng(0).integers(0, len(LETTERS), (20, 2))
    recording = record(model, params, symbols).row(1, 3, 17)
    assert recording.symbols[:, 0].tolist() == symbols[3:17, 1].tolist()

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    table = params.recurrent.embedding
    table = np.eye(len(LETTERS)) if table is None else table
    fed = [table[symbols[3:17, 1]], recording.states[0].h[1:, 0]]
    for layer, x in enumerate(fed):
        w_x, w_h, b = map(np.float64, params.recurrent.layers[layer])
        state = recording.states[layer]
        z = x @ w_x + state.h[:-1, 0] @ w_h + b
        i, f, g, o = np.split(z, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * state.c[:-1, 0] + i * g
        expected = {"i": i, "f": f, "g": g, "o": o, "h": o * np.tanh(c), "c": c}
        found = gates(CELL, params, recording, Unit(layer, 6))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value[:, 6], atol=1e-5)


def test_other_cells_show_their_state():
    cell = make_gru()
    model, params = net(cell, inputs="one_hot")
    recording = record(model, params, LETTERS.encode("the net reads")[:, None])
    found = gates(cell, params, recording, Unit(0, 2))
    assert found.keys() == {"h"}
    np.testing.assert_array_equal(found["h"], recording.states[0].h[1:, 0, 2])
    np.testing.assert_array_equal(
        activations(cell, recording)[:, 0, 0, 2], recording.states[0].h[1:, 0, 2]
    )


# Fields of the state that have a number for each unit, where they are not h and c.
FIELDS = {
    "projected": {"c"},
    "slstm": {"h", "c", "m"},
    **{name: {"h"} for name in ("gru", "leaky_rnn", "min_lstm", "rnn")},
}
# The gates that are shown, where they are not i, f, g and o.
SHOWN = {
    "nig_lstm": {"f", "g", "o"},
    "nfg_lstm": {"i", "g", "o"},
    "nog_lstm": {"i", "f", "g"},
    "min_lstm": {"i", "f", "g"},
    **{name: set() for name in ("gru", "leaky_rnn", "rnn")},
}
OTHERS = {name: make for name, make in CELLS.items() if name != "lstm"}
OTHERS["projected"] = functools.partial(make_lstm, projection_size=3)
SLOW = OTHERS.keys() - {"peephole_lstm", "projected", "gru"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in OTHERS
    ],
)
def test_units_of_any_cell_have_the_fields_that_are_of_units(name):
    cell, random = OTHERS[name](), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), 5, H))
    state, layer = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32),
        (
            jax.eval_shape(lambda params: cell.initial_state(params, (4, 1)), shapes),
            shapes,
        ),
    )
    params = ModelParams(RecurrentParams(None, (layer,), None), None)
    recording = Recording(np.zeros((3, 1), int), (state,))
    found = gates(cell, params, recording, Unit(0, 6))
    fields, shown = FIELDS.get(name, {"h", "c"}), SHOWN.get(name, set("ifgo"))
    assert found.keys() == fields | shown
    for letter in fields:
        np.testing.assert_array_equal(found[letter], getattr(state, letter)[1:, 0, 6])
    if shown:
        # Each step from the recorded state before, on its own.
        before = jax.tree.map(lambda leaf: leaf[:-1, 0], state)
        after, _ = cell.step(layer, before, np.eye(5, dtype=np.float32)[[0] * 3])
        memory = "c" if hasattr(state, "c") else "h"
        old, new = (getattr(leaves, memory)[:, 6] for leaves in (before, after))
        made = found.get("f", 1) * old + found.get("i", 1) * found["g"]
        np.testing.assert_allclose(made, new, atol=1e-5)


def number_net():
    """A net whose unit 3 holds a number, and units 1 and 6 for a while, or the last."""
    model, params = net(inputs="one_hot")
    plant(params, 3, {"g": 1, "x": -1})
    plant(params, 1, {"g": 1, "x": -1, "b": -1, "v": 1})
    plant(params, 2, {"g": 1, "x": -1, "o": 0, "r": 0})
    return model, params


CONTRAST = ["a dug or his cab is", "a dux or his cav are"]


def test_the_unit_that_holds_the_number_is_found():
    model, params = number_net()
    contrast = align(LETTERS, CONTRAST)
    assert contrast is not None and contrast.verbs == ("is", "are")
    state = model.initial_state(params, (1,))
    agreement = compare(model, CELL, params, contrast, state, 2)
    assert agreement.units[0] == Unit(0, 3)
    part = slice(contrast.noun, contrast.verb)
    for values, sign in zip(agreement.values, (1, -1), strict=True):
        np.testing.assert_allclose(values[part, 0], sign * np.tanh(1), atol=1e-5)
    # What stands in a column is what was read up to there.
    text = "a dux or his cav are "
    values = activations(CELL, record(model, params, LETTERS.encode(text)[:, None]))
    expected = pick(values[:, 0], agreement.units)
    found = agreement.values[1][contrast.columns[1]]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("sign", "word"), [(1, "Tells"), (-1, "Wrong"), (0, "Does")])
def test_words_are_as_likely_as_their_letters(sign, word):
    model, params = number_net()
    singular, plural = LETTERS.encode("ia")
    params.readout.w[3, [singular, plural]] = 5 * sign, -5 * sign
    contrast = align(LETTERS, CONTRAST)
    assert contrast is not None
    state = model.initial_state(params, (1,))
    table = compare(model, CELL, params, contrast, state, 1).log_probability
    assert table is not None
    step = jax.jit(model.step)
    for n, sentence in enumerate(CONTRAST):
        beginning = sentence.rpartition(" ")[0] + " "
        for m, verb in enumerate(("is ", "are ")):
            state, total = model.initial_state(params, ()), 0.0
            for place, number in enumerate(LETTERS.encode(beginning + verb)):
                logits = np.asarray(model.readout(params, state), np.float64)
                if place >= len(beginning):
                    total += logits[number] - np.log(np.exp(logits).sum())
                state = step(params.recurrent, state, number)
            np.testing.assert_allclose(table[n, m], total, rtol=1e-5)
    assert verdict(table, contrast.verbs).startswith(word)


def test_sentences_stand_word_above_word():
    contrast = align(LETTERS, ["The cat's toy is", "The cats toys are!"])
    assert contrast is not None
    assert contrast.words[0] == ["the", "cats", "toy", "is"]
    assert contrast.words[1] == ["the", "cats", "toys", "are"]
    lines = []
    for symbols, columns in zip(contrast.symbols, contrast.columns, strict=True):
        line = [" "] * (columns[-1] + 1)
        for column, number in zip(columns, np.concatenate(symbols), strict=True):
            line[column] = str(LETTERS.symbols[number])
        lines.append("".join(line))
    assert lines == ["the cats toy  is  ", "the cats toys are "]
    assert (contrast.noun, contrast.verb) == (13, 14)


def test_last_words_are_written_whole():
    model, params = number_net()
    contrast = align(LETTERS, ["a everythingatall is", "b everythingatall are"])
    assert contrast is not None
    state = model.initial_state(params, (1,))
    agreement = compare(model, CELL, params, contrast, state, 1)
    pieces = [LETTERS.decode(np.concatenate(ids)) for ids in contrast.symbols]
    figure = draw_agreement(contrast, pieces, agreement, "tanh(c)")
    ticks = [tick.get_text() for tick in figure.axes[-1].get_yticklabels()]
    assert ticks == ["… everythingata… is", "… everythingata… are"] * 2


@pytest.mark.parametrize(
    "sentences",
    [["der hünd is", "die hunde are"], ["a dog is", "a 7 are"], ["a-b is", "a'b are"]],
)
def test_sentences_that_lose_letters_or_differ_no_more_are_left_out(sentences):
    assert align(LETTERS, sentences) is None


def test_words_have_to_be_known():
    words = ("<unk>", "<eos>", "the", "cat", "cats", "is", "are")
    vocabulary = Vocabulary("words", words, 0)
    assert fit(vocabulary, "The dog\ncat") == ("the <eos> cat", ["dog"])
    assert align(vocabulary, ["the dog is", "the dogs are"]) is None
    contrast = align(vocabulary, ["The cat is", "The cats are"])
    assert contrast is not None
    assert [ids.tolist() for ids in contrast.symbols[1]] == [[2], [4], [6]]
    assert (contrast.noun, contrast.verb) == (1, 2)


def test_every_sign_can_be_seen():
    assert label_of("\n") == "↵" and label_of("a") == "a" and label_of(" ") == " "
    # Control, combining, wide: none would have the width of a cell.
    assert [label_of(sign) for sign in "\x07\u0301漢\u200b"] == ["□"] * 4
    assert label_of("antidisestablishment") == "antidisestabl…"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passage": " \n"}, "is blank"),
        ({"passage": "x" * 301}, "has 301 characters"),
        ({"contrast": ["a b is"]}, "holds 1 and not two"),
        ({"contrast": ["a b is", "a b c are"]}, "3 and 4 words"),
        ({"contrast": ["a b is", "a b are"]}, "no word differs"),
        ({"contrast": ["a b\nis", "a c are"]}, "one line of up to"),
        ({"contrast": ["a " * 41 + "is", "b " * 41 + "are"]}, "one line of up to"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        Text(**options)
    assert str(caught.value).count("validation error") == 1


WORDS = 'the cat cats is are of that on\n\n, . " x$y$ é ('.split(" ")


def train(tmp_path, monkeypatch, *overrides):
    random = np.random.default_rng(0)
    text = " ".join(random.choice(WORDS, 3000))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    (tmp_path / "text.toml").write_text(
        """
task = { use = "experiments.text:Text", source = "text.txt", validation = 0.2 }
model = { hidden_size = 6 }
optimizer = { learning_rate = 0.01 }
train = { num_updates = 2, batch_size = 2, segment_length = 20 }
checkpoint = { every = 2 }
logging = { every = 2 }
"""
    )
    monkeypatch.chdir(tmp_path)
    main(["run", "text.toml", "--out", "out", *overrides])
    return load_run("out")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def panels(figure):
    """Returns the axes of units, without colour bars."""
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def check_pictures(run, figures, names, shown):
    """Checks that pictures are files of a good size, with every sign of a passage."""
    assert list(figures) == names
    for name in names:
        data = (run.path / f"plots/{name}.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) < 200_000
        width, height = np.frombuffer(data[16:24], ">u4")
        assert 400 < width < 1600 and 150 < height < 1600
    assert 1 <= len(panels(figures["units"])) <= 4
    for axes in panels(figures["units"]):
        assert "".join(texts(axes)) == shown
    assert len(panels(figures["gates"])) == 2
    for axes in panels(figures["gates"]):
        assert "".join(tick.get_text() for tick in axes.get_xticklabels()) == shown


@pytest.mark.slow
def test_bytes_are_drawn(tmp_path, monkeypatch):
    options = ["task.unit='bytes'", "model.cell='gru'"]
    run = train(
        tmp_path, monkeypatch, *options, "task.passage='the $x\u00e9 \u2603 THE'"
    )
    # The default sentences have letters that the text lacks.
    check_pictures(run, run.task.figures(run), ["units", "gates"], "the $xÃ©  the")


@pytest.mark.slow
def test_words_are_drawn(tmp_path, monkeypatch):
    options = ["task.unit='words'", "model.cell='rnn'", "task.unknown=true"]
    contrast = "task.contrast=['the cat is', 'the cats are']"
    passage = 'task.passage="THE cats\\n that dog x$y$"'
    run = train(tmp_path, monkeypatch, *options, contrast, passage)
    figures = run.task.figures(run)
    names = ["units", "gates", "agreement"]
    check_pictures(run, figures, names, "thecats↵thatx$y$")
    *units, verbs = panels(figures["agreement"])
    assert texts(verbs)[0] and "here" in verbs.get_title(loc="left")
    assert len(units) == 3
    for axes in units:
        assert texts(axes) == ["the", "cat", "is", "the", "cats", "are"]


@pytest.mark.slow
def test_drawn_is_what_the_net_holds_in_float64(tmp_path, monkeypatch, x64):
    del x64
    passage = "the cats are\nof that x$y$ cat."
    options = [f"task.passage={json.dumps(passage)}", "model.num_layers=2"]
    run = train(tmp_path, monkeypatch, *options, "task.contrast=[]")
    figures = run.task.figures(run)
    check_pictures(run, figures, ["units", "gates"], passage.replace("\n", "↵"))
    source = run.experiment.split("validation")
    row = source.segments(0, source.num_segments or 0).inputs[:, :, 0].ravel()
    vocabulary, params = run.vocabulary, jax.tree.map(np.float64, run.params)
    assert vocabulary is not None and run.model.step is not None
    read = vocabulary.decode(row)
    symbols = vocabulary.encode(read[: read.rindex("\n") + 1] + passage)
    state, step = run.model.initial_state(params, ()), jax.jit(run.model.step)
    held = []
    for symbol in symbols:
        state = step(params.recurrent, state, symbol)
        held.append(np.tanh([layer.c for layer in state]))
    held = np.array(held[-len(passage) :])
    assert held.dtype == np.float64
    lines = passage.splitlines(keepends=True)
    for axes in panels(figures["units"]):
        name = axes.get_title(loc="left").partition(":")[0]
        layer, unit = (int(word.split()[1]) for word in name.split(", "))
        (mesh,) = (m for m in axes.collections if isinstance(m, QuadMesh))
        grid = np.asarray(mesh.get_array()).reshape(len(lines), -1)
        cells = [grid[n, : len(line)] for n, line in enumerate(lines)]
        expected = held[:, layer, unit]
        np.testing.assert_allclose(np.concatenate(cells), expected, atol=1e-5)
        assert mesh.get_clim() == (-1, 1)


@pytest.mark.slow
def test_without_a_passage_a_part_of_the_text_is_drawn(tmp_path, monkeypatch):
    run = train(tmp_path, monkeypatch, "task.validation=0.0", "task.test=0.0")
    source = run.experiment.split("train")
    rows = source.segments(0, source.num_segments or 0).inputs.reshape(-1, 2)
    vocabulary = run.vocabulary
    assert vocabulary is not None
    text = [vocabulary.decode(row).replace("\n", "↵") for row in rows.T]
    figures = run.task.figures(run)
    assert list(figures) == ["units", "gates"]
    shown = "".join(texts(figures["units"].axes[0]))
    assert len(shown) > 60
    # It begins where a line does.
    assert any(f"↵{shown}" in row for row in text)
