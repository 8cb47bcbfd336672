"""The page on gradients: its lines, tests, figures and mistakes are what it says."""

import inspect
import re
import types
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from jaxlstm import LSTMParams, LSTMState, lstm_cell, textbook
from jaxlstm.textbook import TextbookReadout, gate_table
from tests.helpers import assert_close, jit
from tests.pages import FENCE, read_tables
from tests.planting import plant, run_check

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ROOT / "docs" / "gradients.md", ROOT / "docs" / "gradients.zh.md"
PAGE = ENGLISH.read_text()
DIFFERENCES = "test_textbook.py::test_gradient_equals_central_differences"

# What `gate_table` names, and how the translation does.
EFFECTS = {
    "erases": "0",
    "keeps": "c_{t-1}",
    "overwrites": "g_t",
    "adds": "c_{t-1} + g_t",
    "hidden": "0",
    "shown": "tanh(c_t)",
}
WORDS = {
    ENGLISH: {},
    CHINESE: {
        "erases": "擦除",
        "keeps": "保持",
        "overwrites": "覆写",
        "adds": "累加",
        "hidden": "隐藏",
        "shown": "可见",
    },
}


def find_table(first: str, page: str = PAGE) -> list[list[str]]:
    """Returns the table that follows a piece of text, without its header."""
    return read_tables(page[page.index(first) :])[0]


def unquote(cell: str) -> str:
    return cell.strip("`").replace(r"\|", "|")


class Equation(NamedTuple):
    """An equation of the page, beside its line and its test."""

    text: str
    line: str
    test: str


EQUATIONS = {
    int(row[0].strip("()")): Equation(*map(unquote, row[1:]))
    for table in read_tables(PAGE)
    for row in table
    if re.fullmatch(r"\(\d+\)", row[0])
}


class Mistake(NamedTuple):
    """A wrong variant: a row of the table of mistakes, and its diff."""

    cosine: str
    norm_ratio: str
    differences: str
    test: str
    file: str
    changes: tuple[tuple[str, str], ...]


def read_diff(code: str) -> tuple[tuple[str, str], ...]:
    """Returns (old, new) of every hunk."""

    def take(hunk: str, sign: str) -> str:
        return "\n".join(x[1:] for x in hunk.splitlines() if x.startswith(sign))

    return tuple((take(hunk, "-"), take(hunk, "+")) for hunk in code.split("@@\n"))


def read_mistakes() -> dict[str, Mistake]:
    """Returns the rows of the table of mistakes, each with its diff, by their names."""
    diffs = [match for match in FENCE.findall(PAGE) if match[0] == "diff"]
    rows = find_table("| | mistake |")
    mistakes = {}
    for row, (_, title, code) in zip(rows, diffs, strict=True):
        _, name, cosine, norm_ratio, differences, test = row
        file = title.split('"')[1]
        mistakes[name] = Mistake(
            cosine, norm_ratio, differences, unquote(test), file, read_diff(code)
        )
    return mistakes


MISTAKES = read_mistakes()


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    """What the Python blocks of the page define, run in order."""
    names: dict[str, Any] = {}
    for language, _, code in FENCE.findall(PAGE):
        if language == "python":
            exec(compile(code, ENGLISH, "exec"), names)
    return names


def shown(value: float, form: str) -> set[str]:
    """Returns how a figure may be written, whichever way its last bit falls."""
    return {format(value * (1 + shift), form) for shift in (-1e-9, 0.0, 1e-9)}


def assert_figures(row: list[str], values: Any, form: str) -> None:
    for cell, value in zip(row, values, strict=True):
        assert cell in shown(float(value), form), (row, values)


def test_every_equation_is_there():
    assert list(EQUATIONS) == list(range(1, 27))


@pytest.mark.parametrize("number", EQUATIONS)
def test_equation_and_line_are_those_of_the_textbook(number):
    equation = EQUATIONS[number]
    docstring = textbook.__doc__ or ""
    (derived,) = re.findall(rf"^ {{4}}(.*\S) +\({number}\)$", docstring, re.MULTILINE)
    assert " ".join(derived.split()).startswith(equation.text)
    lines = [line.strip() for line in inspect.getsource(textbook).splitlines()]
    assert lines.count(f"{equation.line}  # ({number})") == 1


def test_tests_that_the_text_names_are_there():
    names = re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE)
    for path, name in names:
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    assert len(names) == 5


@pytest.mark.parametrize("number", EQUATIONS)
def test_named_test_checks_the_line(number, monkeypatch):
    equation = EQUATIONS[number]
    name, sign, value = re.split(r" (\+?=) ", equation.line, maxsplit=1)
    change = equation.line, f"{name} {sign} 1.5 * ({value})"
    with pytest.raises(AssertionError):
        run_check(equation.test, "jaxlstm/textbook.py", [change], monkeypatch)


@pytest.mark.parametrize(
    ("file", "test"),
    sorted(
        {("jaxlstm/textbook.py", equation.test) for equation in EQUATIONS.values()}
        | {(mistake.file, mistake.test) for mistake in MISTAKES.values()}
        | {("jaxlstm/textbook.py", DIFFERENCES)}
    ),
)
def test_named_test_passes_on_the_right_code(file, test, monkeypatch):
    run_check(test, file, (), monkeypatch)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught_by_the_named_test(name, monkeypatch):
    mistake = MISTAKES[name]
    with pytest.raises(AssertionError):
        run_check(mistake.test, mistake.file, mistake.changes, monkeypatch)


@pytest.mark.parametrize("name", MISTAKES)
def test_what_central_differences_see(name, monkeypatch):
    mistake = MISTAKES[name]
    try:
        run_check(DIFFERENCES, mistake.file, mistake.changes, monkeypatch)
        outcome = "blind"
    except AssertionError:
        outcome = "caught"
    assert outcome == mistake.differences


def gradient(
    module: types.ModuleType, state: LSTMState | None = None, steps: int = 12
) -> np.ndarray:
    """Returns the gradient of a layer as rows of W_x, W_h and b."""
    rng = np.random.default_rng(0)
    batch, x, h, y = 4, 3, 8, 2
    params = LSTMParams(
        rng.normal(size=(x, 4 * h)) / np.sqrt(x),
        rng.normal(size=(h, 4 * h)) / np.sqrt(h),
        np.repeat([0.0, 1.0, 0.0, 0.0], h),
    )
    readout = TextbookReadout(rng.normal(size=(h, y)), np.zeros(y))
    first = LSTMState(rng.normal(size=(batch, h)), rng.normal(size=(batch, h)))
    inputs = rng.normal(size=(steps, batch, x))
    targets = rng.normal(size=(steps, batch, y))
    cache = module.forward(params, readout, inputs, first if state is None else state)
    return np.vstack(module.backward(params, readout, cache, targets).params)


@pytest.mark.parametrize("name", [m for m in MISTAKES if MISTAKES[m].cosine])
def test_cosine_and_norm_ratio_of_a_mistake(name, program):
    mistake = MISTAKES[name]
    module, planted = plant(mistake.file, mistake.changes)
    figures = program["compare"](gradient(planted), gradient(module))
    assert_figures([mistake.cosine, mistake.norm_ratio], figures, ".3f")


def test_swap_of_h_and_c_hides_behind_a_state_of_zeros():
    mistake = MISTAKES["h and c swapped"]
    module, planted = plant(mistake.file, mistake.changes)
    zeros = LSTMState(np.zeros((4, 8)), np.zeros((4, 8)))
    np.testing.assert_array_equal(gradient(planted, zeros), gradient(module, zeros))
    assert np.abs(gradient(planted) - gradient(module)).max() > 0.1


def test_forgotten_h_hides_behind_a_single_step():
    mistake = MISTAKES["h of the next step forgotten"]
    module, planted = plant(mistake.file, mistake.changes)
    for steps, hidden in [(1, True), (2, False)]:
        both = gradient(planted, steps=steps), gradient(module, steps=steps)
        assert np.array_equal(*both) == hidden


def test_gates_before_a_memory_without_h_learn_nothing():
    mistake = MISTAKES["the way from c through h forgotten"]
    _, planted = plant(mistake.file, mistake.changes)
    i, f, g, o = np.split(gradient(planted), 4, axis=1)
    assert not i.any() and not f.any() and not g.any() and o.all()


def test_cosine_alone_catches_little():
    wrong = [float(m.cosine) for m in MISTAKES.values() if m.cosine]
    assert sum(cosine > 0.9 for cosine in wrong) > len(wrong) / 2
    assert "most have one over 0.9" in " ".join(PAGE.split())


def test_jacobian_of_the_program_is_that_of_the_cell(program, x64):
    params, inputs = program["params"], program["inputs"]
    readout = program["readout"]
    cache = textbook.forward(params, readout, inputs[:2])
    state = LSTMState(cache.h[0], cache.c[0])

    @jit
    def differentiate(params, state):
        def step(params: LSTMParams, state: LSTMState) -> LSTMState:
            return lstm_cell(params, state, inputs[1])[0]

        return jax.jacfwd(step, argnums=(0, 1))(params, state)

    by = differentiate(params, state)
    expected = [
        np.block([[w.reshape(len(w), -1) for w in row[argument]] for row in by])
        for argument in (1, 0)
    ]
    assert_close(list(program["linearise"](params, cache, 1)), expected)


@pytest.mark.parametrize("path", WORDS, ids=lambda path: path.name)
def test_gates_at_their_extremes_are_those_of_the_cell(path):
    def effect(name: str) -> list[str]:
        return [WORDS[path].get(name, name), EFFECTS[name]]

    rows = find_table("| i | f | o |", path.read_text())
    assert rows == [
        [str(row.i), str(row.f), str(row.o), *effect(row.memory), *effect(row.output)]
        for row in gate_table()
    ]


def test_slopes_are_those_of_the_program(program):
    rows = find_table("| z | sigmoid |")
    for z, *row in rows:
        assert_figures(row, program["slopes"](float(z)), ".2g")
    assert len(rows) == 5


def test_way_counted_twice_is_that_of_the_program(program):
    ((_, *row),) = find_table("twice = compare(")
    assert_figures(row, program["twice"], ".3f")


def test_horizons_are_those_of_the_program(program):
    rows = find_table("| horizon |")
    assert [int(row[0]) for row in rows] == list(program["truncated"])
    for horizon, *row in rows:
        assert_figures(row, program["truncated"][int(horizon)], ".3f")


def test_vanishing_is_that_of_the_program(program):
    rows = find_table("| k | RNN")
    assert [int(row[0]) for row in rows] == list(program["vanishing"])
    for k, *row in rows:
        assert_figures(row, program["vanishing"][int(k)], ".2g")
