"""A functional LSTM research toolkit in JAX."""

from jaxlstm.cells import Cell as Cell
from jaxlstm.cells import LSTMParams as LSTMParams
from jaxlstm.cells import LSTMState as LSTMState
from jaxlstm.cells import init_lstm as init_lstm
from jaxlstm.cells import lstm_cell as lstm_cell
from jaxlstm.cells import zero_state as zero_state
from jaxlstm.sequence import lstm as lstm
from jaxlstm.sequence import unroll as unroll
