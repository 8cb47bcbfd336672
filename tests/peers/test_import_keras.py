"""Models of Keras for a run: each layer is held against the config by itself."""

import jax
import pytest

from jaxlstm.lab import UserError
from jaxlstm.lab.weights.importing import read_weights
from tests.peers.keras_peer import FILTER, keras
from tests.peers.test_export_peers import WORDS, T, build

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings(FILTER)]

L = keras.layers
HAS_NONE = "its activation has no form here"


def sequence(name, **options):
    return L.LSTM(3, return_sequences=True, name=name, **options)


def readout(size, activation=None):
    return L.Dense(size, activation=activation, name="out")


CASES = {
    "amid the net": (
        lambda size: [L.Activation("sigmoid", name="amid"), sequence("a")],
        [f"amid: {HAS_NONE}"],
    ),
    "below the readout": (
        lambda size: [sequence("a"), L.Activation("softmax", name="amid")],
        [f"amid: {HAS_NONE}"],
    ),
    "twice at the end": (
        lambda size: [
            sequence("a"),
            readout(size, "sigmoid"),
            L.Activation("softmax", name="end"),
        ],
        [f"out: {HAS_NONE}"],
    ),
    "another in the second layer": (
        lambda size: [sequence("a"), sequence("b", activation="relu")],
        [
            'b: computes what model.cell = "lstm" of the config does not, by the same '
            "arrays; change the cell or its options"
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_activations_that_a_run_has_none_of(case, tmp_path):
    make, wanted = CASES[case]
    layers = "model.num_layers=2" if "second" in case else "model.num_layers=1"
    experiment = build(tmp_path, True, (*WORDS, layers))
    size, path = experiment.config.task.parts().input_size, tmp_path / "net.keras"
    made = make(size)
    top = [] if made[-1].name == "end" else [readout(size)]
    inputs = keras.Input((T,), dtype="int32")
    with jax.numpy_rank_promotion("allow"):
        keras.Sequential([inputs, L.Embedding(size, 5), *made, *top]).save(path)
    with pytest.raises(UserError) as caught:
        read_weights(path, experiment)
    assert list(caught.value.lines) == [f"{path}: {line}" for line in wanted]
