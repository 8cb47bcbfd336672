"""Traces of layers against the stack itself, and what a comparison tells of faults."""

import jax
import numpy as np
import pytest

from jaxlstm import init_lstm_stack, lstm_stack
from jaxlstm.cells import CELLS, make_gru
from jaxlstm.interop.parity import compare_layers
from jaxlstm.interop.trace import trace_layers
from jaxlstm.interop.weights import WeightsError
from jaxlstm.sequence import unroll
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close, draw_like, jit

T, B, X, H = 6, 3, 2, 4
LENGTHS = np.array([6, 3, 5])


def draw(seed, shape=(T, B, H)):
    return np.random.default_rng(seed).normal(size=shape)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def find_cause(ours, theirs, name="layers.0.h", **options):
    (row,) = compare_layers({name: ours}, {name: theirs}, **options).rows
    assert not row.passed
    return row


@pytest.fixture
def stack(x64):
    def make():
        return init_lstm_stack(
            jax.random.key(0), X, H, num_layers=2, bidirectional=True, dtype="float64"
        )

    params = draw_like(jax.eval_shape(make), 0, 0.5)
    inputs = draw(1, (T, B, X))
    inputs[LENGTHS[1] :, 1] = np.nan
    return params, inputs


def test_trace_of_a_stack(stack):
    params, inputs = stack
    traced, (_, outputs) = jit(
        lambda p, x: (
            trace_layers(p, x, lengths=LENGTHS),
            lstm_stack(p, x, lengths=LENGTHS),
        )
    )(params, inputs)
    assert_close(traced["layers.1.outputs"], outputs)
    assert len(traced) == 2 * (1 + 2 * (2 + 4))
    inside = (np.arange(T)[:, None] < LENGTHS)[..., None]
    clean = np.where(inside, inputs, 0)
    for n, x in enumerate((clean, np.asarray(traced["layers.0.outputs"]))):
        for place, step in (("forward", 1), ("backward", -1)):
            own = {
                key.rpartition(".")[2]: np.asarray(array)
                for key, array in traced.items()
                if key.startswith(f"layers.{n}.{place}.")
            }
            w_x, w_h, b = map(np.asarray, getattr(params[n], place))
            before = np.zeros((2, T, B, H))
            for t in range(T):
                if 0 <= t - step < T:
                    before[:, t] = own["h"][t - step], own["c"][t - step]
            z = np.split(x @ w_x + before[0] @ w_h + b, 4, -1)
            gates = [np.tanh(v) if k == 2 else sigmoid(v) for k, v in enumerate(z)]
            i, f, g, o = (inside * gate for gate in gates)
            c = f * before[1] + i * g
            expected = {
                "input": i,
                "forget": f,
                "candidate": g,
                "output": o,
                "c": c,
                "h": o * np.tanh(c),
            }
            assert_close(own, {name: expected[name] for name in own})


@pytest.mark.slow
def test_trace_from_a_state_by_another_cell(x64):
    cell = make_gru()
    params = draw_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), X, H)), 0)
    inputs = draw(1, (T, B, X))
    state = draw_like(jax.eval_shape(lambda: cell.initial_state(params, (B,))), 2)
    traced, (_, states) = jit(
        lambda p, x, s: (
            trace_layers((p,), x, (s,), cell=cell),
            unroll(cell, p, x, s),
        )
    )(params, inputs, state)
    assert sorted(name.rpartition(".")[2] for name in traced) == [
        "h",
        "outputs",
        "reset",
        "update",
    ]
    assert_close(traced["layers.0.h"], states.h)
    before = np.concatenate([state.h[None], states.h[:-1]])
    r, u = np.split(
        sigmoid(inputs @ params.w_x + before @ params.w_h + params.b), 3, -1
    )[:2]
    assert_close(traced["layers.0.reset"], r)
    assert_close(traced["layers.0.update"], u)


@pytest.mark.slow
def test_trace_of_gates_that_see_the_memory(x64):
    cell = CELLS["peephole_lstm"]()
    params = draw_like(jax.eval_shape(lambda: cell.init(jax.random.key(0), X, H)), 0)
    inputs = draw(1, (T, B, X))
    traced = jit(lambda p, x: trace_layers((p,), x, cell=cell))(params, inputs)
    names = "outputs", "h", "c", "input", "forget", "candidate", "output"
    assert list(traced) == sorted(f"layers.0.{name}" for name in names)
    layer = {name: np.asarray(traced[f"layers.0.{name}"]) for name in names}
    h, c = (np.concatenate([np.zeros((1, B, H)), layer[s][:-1]]) for s in "hc")
    z = np.split(inputs @ params.w_x + h @ params.w_h + params.b, 4, -1)
    seen = dict(zip(("input", "forget", "output"), params.peepholes, strict=True))
    for n, name, memory in (
        (0, "input", c),
        (1, "forget", c),
        (3, "output", layer["c"]),
    ):
        assert_close(layer[name], sigmoid(z[n] + seen[name] * memory))
    assert_close(layer["candidate"], np.tanh(z[2]))


def test_what_agrees():
    ours = {"a": draw(0), "b": draw(1, (H,)), "c": np.zeros(()), "more": draw(2)}
    theirs = {name: ours[name] + 1e-9 for name in ("a", "b")} | {"c": np.zeros(())}
    report = compare_layers(ours, theirs)
    assert report.passed and report.left_out == ("more",)
    assert [row.where for row in report.rows] == [None] * 3
    assert report.rows[0].absolute == pytest.approx(1e-9)
    assert str(report).splitlines()[-1] == (
        "3 of 3 arrays agree to 1e-05 of their largest entry; 1 more were not compared"
    )


def test_where_and_how_much():
    ours, theirs = draw(0), draw(0)
    theirs[3:, 2, 1] += 0.5
    theirs[4, 0, 0] += 0.5
    report = compare_layers({"x": ours, "h": ours}, {"x": ours, "h": theirs})
    row = report.rows[1]
    assert (row.where, row.cause) == ((3, 2, 1), "equal until t = 3")
    assert row.absolute == pytest.approx(0.5)
    assert row.relative == pytest.approx(0.5 / np.abs(theirs).max())
    text = str(report).splitlines()
    assert text[2].split()[-6:] == ["DIFFERS:", "equal", "until", "t", "=", "3"]
    assert text[-1] == "the first that differs is h, after 1 that agree"
    loose = compare_layers({"h": ours}, {"h": theirs}, tolerance=0.5)
    assert loose.passed
    assert find_cause(ours, theirs, "layers.0.backward.h").where == (5, 2, 1)


def test_causes_that_the_whole_tells():
    ours, square = draw(0), draw(1, (H, H))
    for a, b, cause in (
        (2 * ours, ours, "ours are 2 times theirs"),
        (1.00003 * ours, ours, "ours are 1.00003 times theirs"),
        (0 * ours, ours, "ours are all zero"),
        (ours, 0 * ours, "theirs are all zero"),
        (ours, ours[::-1], "theirs run backwards in time"),
        (square, square.T, "equal but for the first two axes, which are swapped"),
        (ours[..., :2], ours[..., 1::-1], "the two halves are swapped, as directions"),
        (
            ours,
            ours.swapaxes(0, 1),
            "ours are (6, 3, 4) and theirs (3, 6, 4), equal but",
        ),
        (ours, ours[:4], "ours are (6, 3, 4) and theirs (4, 3, 4)"),
        (ours, np.where(ours > 1, np.nan, ours), "theirs are not finite"),
    ):
        assert find_cause(a, b).cause.startswith(cause)
    assert find_cause(ours, ours[:4]).cause.endswith("theirs (4, 3, 4)")


def test_orders_of_gates_are_told_of_weights_alone():
    i, f, g, o = np.split(draw(2, (T, B, 4 * H)), 4, -1)
    ours, theirs = (np.concatenate(b, -1) for b in ((i, f, g, o), (i, g, f, o)))
    told = "in four blocks, ours being i, f, g, o, theirs are i, g, f, o"
    for name in ("layers.0.w_x", "rnn.weight_hh_l0", "lstm/linear/b", "kernel", "dz"):
        assert find_cause(ours, theirs, name).cause == told
    for name in ("layers.0.h", "b.outputs", "layers.0.forward.input"):
        assert find_cause(ours, theirs, name).cause.startswith("from the first step on")


def test_causes_that_the_places_tell():
    ours = draw(0)
    past = np.arange(T)[:, None] >= LENGTHS
    noise = 0.1 * draw(1)
    theirs = {
        "equal within the lengths": np.where(past[..., None], 0, ours),
        "examples of length 6 are equal": ours + noise * (LENGTHS < T)[:, None],
        "from the first step on": ours + noise,
        "in the last step alone": ours + noise * (np.arange(T) == 5)[:, None, None],
    }
    for cause, array in theirs.items():
        assert find_cause(ours, array, lengths=LENGTHS).cause.startswith(cause)
    short = np.minimum(LENGTHS, T - 1)
    array = ours + noise * (np.arange(T) == 2)[:, None, None]
    assert find_cause(ours, array, lengths=short).cause == "equal until t = 2"
    backward = find_cause(ours, ours + noise, "layers.1.backward.c")
    assert backward.cause.startswith("from the last step on")
    assert backward.where == (5, 0, 0)
    half = ours + noise * (np.arange(H) >= H // 2)
    assert find_cause(ours, half, "layers.0.outputs").cause.startswith(
        "in the second half of the units alone"
    )
    assert find_cause(draw(3, (H,)), draw(4, (H,))).cause == ""


def test_what_cannot_be_compared():
    ours = {"h": draw(0)}
    with pytest.raises(WeightsError) as caught:
        compare_layers(ours, {"c": draw(0), "h": "no"})
    assert caught.value.lines == (
        "c: is not among ours",
        "h: is no array of numbers",
    )
    with pytest.raises(OptionError, match=r"^lengths: shape \(2,\) is not \[B\]"):
        compare_layers(ours, ours, lengths=[1, 2])
    with pytest.raises(WeightsError, match=r"^theirs: has no arrays, so nothing is"):
        compare_layers(ours, {})
    for tolerance in (0, np.inf):
        with pytest.raises(OptionError, match=rf"^tolerance: {tolerance} is not posit"):
            compare_layers(ours, ours, tolerance=tolerance)
