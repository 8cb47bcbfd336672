"""Weights and outputs of real frameworks, identified without their names."""

import haiku as hk
import jax
import numpy as np
import pytest
import torch

from jaxlstm import interop, lstm
from tests.helpers import jit
from tests.peers.keras_peer import FILTER, keras

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings(FILTER)]

T, B, X, H = 6, 3, 4, 4
INPUTS = np.random.default_rng(0).normal(size=(T, B, X)).astype("float32")


def check(arrays, inputs, outputs, **expected):
    found = interop.identify(arrays, inputs, outputs)
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.error < 1e-5 < 1e-3 < found.runner_up_error
    batch_first = expected.get("batch_first", False)
    swapped = inputs.swapaxes(0, 1) if batch_first else inputs
    _, own = jit(lstm)(found.params, swapped)
    own = own.swapaxes(0, 1) if batch_first else own
    np.testing.assert_allclose(own, outputs, atol=1e-5)


def test_pytorch():
    for bias in (True, False):
        layer = torch.nn.LSTM(X, H, bias=bias)
        outputs, _ = layer(torch.tensor(INPUTS))
        arrays = [tensor.detach().numpy() for tensor in layer.parameters()]
        check(
            arrays,
            INPUTS,
            outputs.detach().numpy(),
            order="ifgo",
            transposed=(True, True),
            bias="two" if bias else "none",
            forget_bias=0.0,
            batch_first=False,
        )


def test_keras():
    layer = keras.layers.LSTM(H, return_sequences=True)
    inputs = INPUTS.swapaxes(0, 1)
    with jax.numpy_rank_promotion("allow"):
        outputs = np.asarray(layer(inputs))
    check(
        layer.get_weights(),
        inputs,
        outputs,
        order="ifgo",
        transposed=(False, False),
        bias="one",
        forget_bias=0.0,
        batch_first=True,
    )


def test_haiku():
    def call(inputs):
        core = hk.LSTM(H)
        return hk.dynamic_unroll(core, inputs, core.initial_state(B))[0]

    net = hk.without_apply_rng(hk.transform(call))
    params = net.init(jax.random.key(0), INPUTS)
    outputs = np.asarray(net.apply(params, INPUTS))
    check(
        jax.tree.leaves(params),
        INPUTS,
        outputs,
        order="igfo",
        layout="[x; h]",
        bias="one",
        forget_bias=1.0,
    )
