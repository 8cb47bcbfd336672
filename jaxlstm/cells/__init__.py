"""One step of time: the cells, and what they are made of."""

from collections.abc import Callable

from jaxlstm.cells.activations import ACTIVATIONS as ACTIVATIONS
from jaxlstm.cells.base import Cell as Cell
from jaxlstm.cells.base import Gate as Gate
from jaxlstm.cells.base import Gated as Gated
from jaxlstm.cells.base import GatedWeights as GatedWeights
from jaxlstm.cells.base import gated_step as gated_step
from jaxlstm.cells.gru import GRUParams as GRUParams
from jaxlstm.cells.gru import GRUState as GRUState
from jaxlstm.cells.gru import gru_cell as gru_cell
from jaxlstm.cells.gru import init_gru as init_gru
from jaxlstm.cells.gru import make_gru as make_gru
from jaxlstm.cells.initializers import INITIALIZERS as INITIALIZERS
from jaxlstm.cells.initializers import Initializer as Initializer
from jaxlstm.cells.lstm import LSTMParams as LSTMParams
from jaxlstm.cells.lstm import LSTMState as LSTMState
from jaxlstm.cells.lstm import ProjectedLSTMParams as ProjectedLSTMParams
from jaxlstm.cells.lstm import init_lstm as init_lstm
from jaxlstm.cells.lstm import lstm_cell as lstm_cell
from jaxlstm.cells.lstm import make_lstm as make_lstm
from jaxlstm.cells.lstm import zero_state as zero_state
from jaxlstm.cells.min_lstm import MinLSTMParams as MinLSTMParams
from jaxlstm.cells.min_lstm import MinLSTMState as MinLSTMState
from jaxlstm.cells.min_lstm import init_min_lstm as init_min_lstm
from jaxlstm.cells.min_lstm import make_min_lstm as make_min_lstm
from jaxlstm.cells.min_lstm import min_lstm_cell as min_lstm_cell
from jaxlstm.cells.rnn import RNNParams as RNNParams
from jaxlstm.cells.rnn import RNNState as RNNState
from jaxlstm.cells.rnn import init_rnn as init_rnn
from jaxlstm.cells.rnn import make_leaky_rnn as make_leaky_rnn
from jaxlstm.cells.rnn import make_rnn as make_rnn
from jaxlstm.cells.rnn import rnn_cell as rnn_cell
from jaxlstm.cells.variant_params import ExponentialState as ExponentialState
from jaxlstm.cells.variant_params import GateRecurrentState as GateRecurrentState
from jaxlstm.cells.variant_params import LSTMVariantParams as LSTMVariantParams
from jaxlstm.cells.variants import VARIANTS
from jaxlstm.cells.variants import make_lstm_variant as make_lstm_variant

CELLS: dict[str, Callable[..., Cell]] = {
    "lstm": make_lstm,
    "gru": make_gru,
    "rnn": make_rnn,
    "leaky_rnn": make_leaky_rnn,
    **VARIANTS,
    "min_lstm": make_min_lstm,
}
