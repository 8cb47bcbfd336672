"""What is refused of ONNX's operators, by name, without the package onnx."""

import sys

import numpy as np
import pytest

from jaxlstm import Directions, LSTMParams, interop
from jaxlstm.cells import LSTMVariantParams
from jaxlstm.interop import WeightsError
from jaxlstm.shapes import OptionError
from tests.interop.onnx_operators import BOTH, B, H, Operator, X

W, R = np.zeros((1, 4 * H, X)), np.zeros((1, 4 * H, H))
GRU = np.zeros((1, 3 * H, X)), np.zeros((1, 3 * H, H))
P = np.zeros((1, 3 * H))


@pytest.mark.parametrize(
    ("arguments", "options", "lines"),
    [
        (
            (W[0], R),
            {},
            [
                "W: shape (16, 3) is not of three axes, [D, G H, X] of W and "
                "[D, G H, H] of R"
            ],
        ),
        (
            (W, R[:, 1:]),
            {},
            [
                "R: shape (1, 15, 4) is neither [D, 4H, H] of an LSTM, [D, 3H, H] of a "
                "GRU nor [D, H, H] of an RNN"
            ],
        ),
        (
            (W[:, 1:], R, P, W),
            {"prefix": "a."},
            [
                "a.W: shape (1, 15, 3) is not (1, 16, 3), which is [D, 4H, X] for "
                "D = 1, X = 3, H = 4",
                "a.B: shape (1, 12) is not (1, 32), which is [D, 8H] for D = 1, X = 3, "
                "H = 4",
                "a.P: shape (1, 16, 3) is not (1, 12), which is [D, 3H] for D = 1, "
                "X = 3, H = 4",
            ],
        ),
        (
            (W, R),
            {"direction": "bidirectional"},
            ['R: shape (1, 16, 4) has D = 1, and direction="bidirectional" is of 2'],
        ),
        (("w", R), {}, ["W: str is no floating-point tensor"]),
        ((*GRU, None, P), {"linear_before_reset": True}, ["P: GRU has no peepholes"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(x64, arguments, options, lines):
    with pytest.raises(WeightsError) as caught:
        interop.from_onnx(*arguments, **options)
    assert list(caught.value.lines) == lines


@pytest.mark.parametrize(
    ("arrays", "attributes", "message"),
    [
        ((W, R), {"clip": 3.0}, "^clip: is 3.0, and no cell here clips"),
        ((W, R), {"size": 3}, "^attributes: size is not of LSTM, GRU or RNN"),
        ((W, R), {"layout": "1"}, "^attributes: layout is str, not int$"),
        ((W, R), {"direction": "back"}, "^direction: 'back' is unknown"),
        ((W, R), {"hidden_size": 5}, "^R: has H = 4, and hidden_size is 5$"),
        ((W, R), {"linear_before_reset": 1}, "^linear_before_reset: is of a GRU"),
        (GRU, {"input_forget": 1, "linear_before_reset": 1}, "^input_forget: is of an"),
        (GRU, {}, "^linear_before_reset: is 0, so the reset gate acts before"),
        (
            GRU,
            {"linear_before_reset": 1, "activations": ["Sigmoid", "Relu"]},
            "^activations: are sigmoid, relu; the GRU here has sigmoid, tanh alone$",
        ),
        ((W, R), {"activations": ["Tanh"]}, "^activations: are 1, Tanh; .* has 3$"),
        ((W, R), {"activations": ["Sin"] * 3}, "^activations: 'Sin' is unknown"),
        (
            (W, R),
            {"activations": ["Affine"] * 3, "activation_alpha": [1.0] * 3},
            "^activation_beta: is missing, and Affine has no default$",
        ),
        (
            (W, R),
            {"activations": ["Tanh"] * 3, "activation_alpha": [1.0]},
            "^activation_alpha: has 1 more than Tanh, Tanh, Tanh take$",
        ),
        (
            tuple(np.repeat(array, 2, axis=0) for array in (W, R)),
            BOTH
            | {"activations": ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Tanh", "Relu"]},
            r"^activations: are .* not the same in both directions",
        ),
    ],
)
def test_attributes_that_no_cell_has_are_refused(x64, arrays, attributes, message):
    tensors = dict(zip("WR", arrays, strict=True))
    with pytest.raises(ValueError, match=message):
        interop.layer_from_onnx(tensors, attributes)


def test_missing_and_further_tensors_are_named():
    with pytest.raises(WeightsError) as caught:
        interop.layer_from_onnx({"W": W, "K": W}, prefix="lstm.")
    assert list(caught.value.lines) == [
        "lstm.R: is missing",
        "lstm.K: is not of this layer",
    ]


def test_states_of_another_shape_are_refused(x64):
    params = interop.from_onnx(*Operator(tensors="WR").draw()[0].values())
    h = np.zeros((1, B, H))
    for state, message in (
        (h, r"^state: has 1 part; that of LSTMParams is \(h, c\)$"),
        ((h, h[0]), r"^c: shape \(3, 4\) does not fit \[L D, B, H\] of layout 0"),
        ((h[:, :, :3], h), r"^h: shape .* by the parameters L D = 1 and H = 4$"),
        ((h, "c"), r"^c: str is no array$"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.state_from_onnx(state, params)
    with pytest.raises(OptionError, match=r"^layout: 2 is unknown"):
        interop.state_to_onnx(interop.state_from_onnx((h, h), params), layout=2)


def test_parameters_that_no_operator_has_are_refused(x64):
    params = interop.from_onnx(W, R)
    variant = LSTMVariantParams(*params)
    with pytest.raises(
        TypeError, match=r"^params: are ndarray; ONNX has operators for"
    ):
        interop.to_onnx(W)
    with pytest.raises(WeightsError, match=r"^w_p: ONNX's LSTM has no place for it$"):
        interop.to_onnx(variant._replace(w_p=np.zeros((H, 2))))
    with pytest.raises(WeightsError, match=r"^w_x: shape \(3, 16\) has 4 blocks of H"):
        interop.to_onnx(variant, input_forget=True)
    with pytest.raises(WeightsError, match=r"^params: LSTMParams has no coupled gates"):
        interop.to_onnx(params, input_forget=True)
    without = params._replace(b=np.zeros(4 * H))
    with pytest.raises(WeightsError, match=r"^params: the two directions do not have"):
        interop.to_onnx(Directions(params, without))


def test_files_need_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"^ONNX files need the package onnx"):
        interop.load_onnx(tmp_path / "model.onnx")
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        interop.save_onnx(tmp_path / "model.onnx", LSTMParams(W[0].T, R[0].T, None))
    assert list(tmp_path.iterdir()) == []
