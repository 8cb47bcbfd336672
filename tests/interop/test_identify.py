"""Weights of unknown origin, against an LSTM written out in NumPy."""

import itertools
import sys

import numpy as np
import pytest

from jaxlstm.interop.origin.identify import identify
from jaxlstm.interop.weights import WeightsError
from jaxlstm.shapes import OptionError
from tests.helpers import assert_close

T, B, X, H = 5, 2, 3, 4
ORDERS = ["".join(order) for order in itertools.permutations("ifgo")]
BIASES = "none", "one", "two", "[2, 4H]", "[8H]"
SQUARE = {"apart": 4 * H, "[x; h]": 3 * H, "[h; x]": 3 * H, "gates": H}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def hard_sigmoid(z):
    return np.clip(z / 6 + 0.5, 0, 1)


def draw(seed, x_size=X, size=H, scale=0.5):
    """Draws w_x, w_h and b by gate."""
    rng = np.random.default_rng(seed)
    shapes = (x_size, size), (size, size), (size,)
    return [{g: scale * rng.normal(size=s) for g in "ifgo"} for s in shapes]


def run(gates, inputs, forget_bias=0.0, h=None, c=None, **other):
    """Runs the LSTM as its equations are written, gate by gate; or one of another kind.

    Args:
      gates: w_x, w_h and b.
      inputs: [T, B, X].
      forget_bias: added in every call.
      h: before the first step.
      c: before the first step.
      **other: squash in place of sigmoid, tanh in place of its own, peephole, coupled.
    """
    squash, tanh = other.get("squash", sigmoid), other.get("tanh", np.tanh)
    peephole, coupled = other.get("peephole", 0.0), other.get("coupled", False)
    w_x, w_h, b = gates
    h = np.zeros((inputs.shape[1], len(b["i"]))) if h is None else h
    c = np.zeros_like(h) if c is None else c
    outputs = []
    for x in inputs:
        z = {g: x @ w_x[g] + h @ w_h[g] + b[g] for g in "ifgo"}
        i = squash(z["i"] + peephole * c)
        f = 1 - i if coupled else squash(z["f"] + peephole * c + forget_bias)
        c = f * c + i * tanh(z["g"])
        h = squash(z["o"] + peephole * c) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def join(blocks, order="ifgo"):
    return np.concatenate([blocks[gate] for gate in order], axis=-1)


def expect(gates, forget_bias=0.0):
    w_x, w_h, b = (join(part) for part in gates)
    b[len(b) // 4 : len(b) // 2] += forget_bias
    return w_x, w_h, b


def store(gates, order, transposed, bias, layout="apart"):
    """Returns the arrays of some origin, in an order that names tell nothing of."""
    w_x, w_h, b = (join(part, order) for part in gates)
    parts = {"apart": [w_h, w_x], "[x; h]": [np.r_[w_x, w_h]]}
    parts["[h; x]"] = [np.r_[w_h, w_x]]
    other = np.linspace(-0.3, 0.4, b.size)
    biases = {
        "none": [],
        "one": [b],
        "two": [b - other, other],
        "[2, 4H]": [np.stack([b - other, other])],
        "[8H]": [np.r_[other, b - other]],
    }
    matrices = [w.T if transposed else w for w in parts[layout]]
    return [*biases[bias], *matrices]


def draw_inputs(seed, x_size=X):
    return np.random.default_rng(seed).normal(size=(T, B, x_size))


def make(seed, order, transposed, bias, forget_bias, layout="apart", x_size=X):
    gates = draw(seed, x_size)
    if bias == "none":
        gates[2] = {gate: 0 * block for gate, block in gates[2].items()}
    inputs = draw_inputs(seed + 1, x_size)
    arrays = store(gates, order, transposed, bias, layout)
    return arrays, inputs, run(gates, inputs, forget_bias), expect(gates, forget_bias)


def check(found, expected, tolerance=1e-12):
    params = found.params
    b = np.zeros_like(expected[2]) if params.b is None else params.b
    wide = tuple(np.asarray(leaf, np.float64) for leaf in (params.w_x, params.w_h))
    assert_close(wide, expected[:2], tolerance)
    assert np.abs(b - expected[2]).max() <= tolerance


def check_all(cases):
    for n, (order, transposed, bias, forget_bias, layout) in enumerate(cases):
        arrays, inputs, outputs, expected = make(
            n, order, transposed, bias, forget_bias, layout
        )
        found = identify(arrays, inputs, outputs)
        check(found, expected)
        assert (found.order, found.layout) == (order, layout)
        assert found.transposed == (transposed, transposed)
        assert found.forget_bias == forget_bias
        assert not found.equivalent and found.runner_up_error > 1e-3 > 1e8 * found.error


def test_each_order_among_other_conventions(x64):
    others = itertools.cycle(
        itertools.product(
            (False, True), BIASES, (0.0, 1.0), ("apart", "[x; h]", "[h; x]")
        )
    )
    # 7 is prime to the 60 of them, so that consecutive orders differ in all.
    check_all((order, *next(itertools.islice(others, 7, None))) for order in ORDERS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["apart", "[x; h]", "[h; x]"])
def test_all_conventions(layout, x64):
    check_all(itertools.product(ORDERS, (False, True), BIASES, (0.0, 1.0), (layout,)))


@pytest.mark.parametrize("layout", ["apart", "[x; h]", "[h; x]"])
@pytest.mark.parametrize("transposed", [False, True])
def test_square_matrices_stand_either_way(layout, transposed, x64):
    arrays, *sample, expected = make(
        3, "gifo", transposed, "one", 1.0, layout, SQUARE[layout]
    )
    found = identify(arrays, *sample)
    check(found, expected)
    assert found.transposed == (transposed, transposed)


@pytest.mark.parametrize("x_size", [X, H], ids=["oblong", "square"])
@pytest.mark.parametrize(
    "transposed", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_gates_apart_in_any_order(x_size, transposed, x64):
    gates = draw(1, x_size)
    arrays = {}
    for part, blocks in zip(("x", "h", "b"), gates, strict=True):
        for gate, block in blocks.items():
            arrays[part + gate] = block.T if transposed else block
    names = list(np.random.default_rng(0).permutation(list(arrays)))
    inputs = draw_inputs(2, x_size)
    found = identify({n: arrays[n] for n in names}, inputs, run(gates, inputs))
    check(found, expect(gates))
    assert found.names == {
        part: tuple(key + gate for gate in "ifgo")
        for part, key in (("w_x", "x"), ("w_h", "h"), ("b", "b"))
    }
    assert found.bias == "one a gate"


@pytest.mark.slow
def test_two_biases_of_each_gate_in_any_order(x64):
    gates, inputs = draw(1), draw_inputs(2)
    arrays = {}
    for part, blocks in zip(("x", "h", "b"), gates, strict=True):
        arrays |= {part + gate: block for gate, block in blocks.items()}
    for n, gate in enumerate("ogfi"):
        arrays[f"c{gate}"] = np.linspace(n, 3 - n, H)
        arrays[f"b{gate}"] = arrays[f"b{gate}"] - arrays[f"c{gate}"]
    found = identify(arrays, inputs, run(gates, inputs))
    check(found, expect(gates))
    assert [set(name.split(" + ")) for name in found.names["b"]] == [
        {f"b{gate}", f"c{gate}"} for gate in "ifgo"
    ]


def test_arrays_of_more_axes(x64):
    gates, inputs = draw(1), draw_inputs(2)
    outputs = run(gates, inputs)
    w_x, w_h, b = (join(part) for part in gates)
    onnx = {"W": w_x.T[None], "R": w_h.T[None], "B": np.r_[b, 0 * b][None]}
    stacked = [np.stack(list(part.values())) for part in gates]
    for arrays in (onnx, stacked, [w_x, w_h.T, b[:, None]]):
        check(identify(arrays, inputs, outputs), expect(gates))


def test_forget_biases_that_no_framework_adds(x64):
    gates, inputs = draw(1), draw_inputs(2)
    arrays = store(gates, "fogi", True, "one")
    for bias in (-1.25, 0.7, 4.0):
        outputs = run(gates, inputs, bias)
        found = identify(arrays, inputs, outputs)
        check(found, expect(gates, bias))
        assert found.forget_bias == bias
        check(identify(arrays, inputs, outputs, forget_bias=bias), expect(gates, bias))
    with pytest.raises(WeightsError, match="no form of an LSTM"):
        identify(arrays, inputs, outputs, forget_bias=1.0)
    with pytest.raises(WeightsError, match="no form of an LSTM"):
        identify(arrays, inputs, run(gates, inputs, 0.7)[-1], last=True)
    apart = [block for part in gates for block in part.values()]
    check(identify(apart[::-1], inputs, run(gates, inputs, -2.5)), expect(gates, -2.5))


# Seed, forget bias and scale; T, B, X and H.
FEW = (
    (40, 2.5, 3, 2, 2, 3, 2),
    (55, 2.5, 3, 2, 2, 3, 2),
    (4, -1.3, 3, 3, 2, 3, 1),
    (46, 4.0, 3, 3, 2, 3, 2),
)


def draw_few(seed, forget_bias, scale, *sizes):
    """Returns arrays of large weights, inputs, and few outputs."""
    steps, batch, x_size, size = sizes
    gates = draw(seed, x_size, size, scale)
    inputs = np.random.default_rng(seed + 1).normal(size=(steps, batch, x_size))
    return store(gates, "ifgo", False, "one"), inputs, run(gates, inputs, forget_bias)


def test_few_outputs_that_a_usual_forget_bias_nearly_gives(x64):
    """By the best of 0 and 1 alone, each of these was another function."""
    for case in FEW:
        sample = draw_few(*case)
        with pytest.raises(WeightsError, match="numbers are too few to find it by; gi"):
            identify(*sample)
        assert identify(*sample, forget_bias=case[1]).error < 1e-14


def test_forms_on_both_sides_of_the_tolerance_are_alike(x64):
    gates, inputs = draw(1), draw_inputs(2)
    for part, other in zip(gates, draw(3, scale=0.01), strict=True):
        part["o"] = part["i"] + other["o"]
    swapped = [part | {"i": part["o"], "o": part["i"]} for part in gates]
    noise = 1e-3 * np.random.default_rng(4).normal(size=(T, B, H))
    outputs = run(gates, inputs) + noise
    size = np.sqrt((outputs**2).mean())
    near, far = (
        np.sqrt(((run(form, inputs) - outputs) ** 2).mean()) / size
        for form in (gates, swapped)
    )
    assert near < 0.8 * far < 3 * near
    arrays = store(gates, "ifgo", True, "one")
    with pytest.raises(WeightsError, match="two forms of an LSTM give them"):
        identify(arrays, inputs, outputs, forget_bias=0, tolerance=(near + far) / 2)


def test_a_forget_bias_at_the_end_of_the_search_is_refused(x64):
    gates, inputs = draw(1), draw_inputs(2)
    arrays = store(gates, "ifgo", True, "one")
    with pytest.raises(
        WeightsError, match="9 added to the forget gate, and that is as"
    ):
        identify(arrays, inputs, run(gates, inputs, -30.0))


def test_the_last_output_alone_and_a_state(x64):
    gates, inputs = draw(1), draw_inputs(2)
    state = [np.random.default_rng(n).normal(size=(B, H)) for n in (3, 4)]
    arrays = store(gates, "gfoi", False, "two")
    for given in (None, state):
        outputs = run(gates, inputs, 1.0, *(given or ()))
        for options in ({"last": True}, {}):
            sample = inputs, outputs[-1] if options else outputs
            found = identify(arrays, *sample, state=given, **options)
            check(found, expect(gates, 1.0))
            assert found.order == "gfoi"


def test_samples_with_the_batch_first_and_without_one(x64):
    gates, inputs = draw(1), draw_inputs(2)
    arrays, outputs = store(gates, "iofg", True, "[8H]"), run(gates, inputs)
    for swapped, batch_first in ((inputs, False), (inputs.swapaxes(0, 1), True)):
        for last in (False, True):
            out = outputs.swapaxes(0, 1) if batch_first else outputs
            found = identify(arrays, swapped, outputs[-1] if last else out, last=last)
            assert found.batch_first == batch_first
            check(found, expect(gates))
    check(identify(arrays, inputs[:, 0], outputs[:, 0]), expect(gates))
    with pytest.raises(WeightsError, match="no form of an LSTM"):
        identify(arrays, inputs, outputs, batch_first=True)


def test_noise_and_small_weights():
    gates, inputs = draw(1), draw_inputs(2)
    noise = 1e-4 * np.random.default_rng(5).normal(size=(T, B, H))
    for bias in (0.0, 1.0):
        arrays = [a.astype("float32") for a in store(gates, "ogif", True, "two")]
        found = identify(arrays, inputs, run(gates, inputs, bias) + noise)
        check(found, expect(gates, bias), 1e-6)
        assert 1e-4 < found.error < 1e-3 and found.forget_bias == bias
    small = draw(1, scale=0.01)
    arrays = [a.astype("float32") for a in store(small, "ogif", True, "two")]
    found = identify(arrays, inputs, run(small, inputs).astype("float32"))
    check(found, expect(small), 1e-6)


def test_forms_that_are_one_function_are_told(x64):
    gates, inputs = draw(1), draw_inputs(2)
    gates[0]["o"], gates[1]["o"], gates[2]["o"] = (part["i"] for part in gates)
    check(
        identify(store(gates, "ogif", False, "one"), inputs, run(gates, inputs)),
        expect(gates),
    )
    gates, inputs = draw(1, 4 * H), draw_inputs(2, 4 * H)
    w_x = join(gates[0], "gfio") + join(gates[0], "gfio").T
    gates[0] = dict(zip("gfio", np.split(w_x, 4, axis=1), strict=True))
    found = identify(store(gates, "gfio", False, "one"), inputs, run(gates, inputs))
    check(found, expect(gates))
    (other,) = found.equivalent
    assert "w_x [X, 4H]" in found.form and "w_x [4H, X]" in other
    assert found.describe().endswith(f"1 other form is the same function: {other}.")


def test_arrays_that_are_equal_have_no_order(x64):
    gates, inputs = draw(1), draw_inputs(2)
    gates[2] = {gate: np.zeros(H) for gate in "ifgo"}
    apart = [block for part in gates for block in part.values()]
    found = identify(apart, inputs, run(gates, inputs))
    check(found, expect(gates))
    assert found.equivalent == (
        "another order of the arrays of b, of which some are equal",
    )


def test_what_is_said():
    gates, inputs = draw(1), draw_inputs(2)
    arrays = dict(
        zip(("bias", "u", "w"), store(gates, "ifog", True, "one"), strict=True)
    )
    arrays = {name: array.astype("float32") for name, array in arrays.items()}
    text = identify(arrays, inputs, run(gates, inputs, 1.0)).describe()
    assert text.startswith(
        "An LSTM: gates in the order i, f, o, g; w_x [4H, X]; w_h [4H, H]; biases: "
        "one; 1 added to the forget gate when called; the sample time-first. It has "
        "w_x from w, w_h from u, b from bias. Its outputs are those given to "
    )


def test_wrong_outputs_are_refused():
    gates, inputs = draw(1), draw_inputs(2)
    arrays = {
        name: array.astype("float32")
        for name, array in zip("buw", store(gates, "ifgo", True, "one"), strict=True)
    }
    outputs = run(gates, inputs)
    wrong = {
        "of other weights": run(draw(7), inputs),
        "shifted": np.roll(outputs, 1, axis=2),
        "of peepholes": run(gates, inputs, peephole=0.2),
        "of small peepholes": run(gates, inputs, peephole=0.02),
        "of a coupled gate": run(gates, inputs, coupled=True),
        "of no candidate": run(gates, inputs, tanh=lambda z: z),
        "of hard gates": run(
            gates, inputs, squash=lambda z: np.clip(z / 6 + 0.5, 0, 1)
        ),
    }
    for name, given in wrong.items():
        with pytest.raises(
            WeightsError, match=r"no form of an LSTM .* nearest"
        ) as error:
            identify(arrays, inputs, given)
        assert "\n" not in str(error.value), name
    with pytest.raises(WeightsError, match=r"^outputs: are all zero"):
        identify(arrays, inputs, 0 * outputs)
    with pytest.raises(WeightsError, match=r"^outputs: hold what is not finite"):
        identify(arrays, inputs, outputs * np.nan)


def test_inputs_that_show_nothing_are_refused(monkeypatch):
    gates, inputs = draw(1, 4 * H), draw_inputs(2, 4 * H)
    arrays = [a.astype("float32") for a in store(gates, "ifgo", True, "one")]
    outputs = run(gates, 0 * inputs)
    with pytest.raises(WeightsError, match="two forms of an LSTM give them"):
        identify(arrays, 0 * inputs, outputs)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[identify.__module__], "MOST_FORMS", 3)
        with pytest.raises(WeightsError, match="more than 3 forms are left after"):
            identify(arrays, 0 * inputs, outputs)
    with pytest.raises(OptionError, match=r"^inputs: shape \(1, 16\) is of one step"):
        identify(arrays, inputs[:1, 0], outputs[:1, 0])


def test_shapes_that_are_of_no_lstm_are_refused():
    gates, inputs = draw(1), draw_inputs(2)
    b, w_h, w_x = (a.astype("float32") for a in store(gates, "ifgo", True, "one"))
    outputs = run(gates, inputs)
    by = "X = 3 by the inputs and H = 4 by the outputs"
    with pytest.raises(WeightsError) as caught:
        identify(
            {"w": w_x, "u": w_h, "fc": np.ones((4, 9), "float32")}, inputs, outputs
        )
    assert caught.value.lines == (
        f"fc: shape (4, 9) is of no array of an LSTM with {by}",
    )
    for arrays in ([w_x], [w_x, w_h, b, b, b], [w_x, w_x, b], [b]):
        with pytest.raises(WeightsError, match=rf"are no whole LSTM with {by}"):
            identify(arrays, inputs, outputs)
    with pytest.raises(WeightsError, match=r"^arrays: there are none$"):
        identify({}, inputs, outputs)
    with pytest.raises(WeightsError, match="u: int64 is no floating-point tensor"):
        identify({"u": np.ones((4, 16), int)}, inputs, outputs)
    with pytest.raises(WeightsError, match="u: holds what is not finite"):
        identify({"u": np.float32(np.inf) * w_h}, inputs, outputs)


def test_samples_that_do_not_fit_are_refused():
    gates, inputs = draw(1), draw_inputs(2)
    arrays = [a.astype("float32") for a in store(gates, "ifgo", True, "one")]
    outputs = run(gates, inputs)
    for given, options, what in (
        ((inputs, outputs[-1]), {}, r"outputs: shape \(2, 4\) is not \[T, B, H\]"),
        ((inputs, outputs[1:]), {}, r"outputs: shape \(4, 2, 4\) has other steps"),
        ((inputs[:, 0], outputs[:, 0]), {"batch_first": True}, "batch_first: is True"),
        ((inputs, outputs), {"state": 0}, r"state: int is not \(h, c\)"),
        ((inputs, outputs), {"state": (np.ones(3), 0)}, r"state.h: shape \(3,\)"),
        ((inputs, outputs), {"tolerance": 0}, "tolerance: 0 is not between 0 and 1"),
        ((inputs, outputs), {"tolerance": np.inf}, "tolerance: inf is not between 0"),
        ((["a"], outputs), {}, "inputs: list is no array of numbers"),
    ):
        with pytest.raises(OptionError, match=f"^{what}"):
            identify(arrays, *given, **options)
