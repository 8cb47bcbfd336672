"""A functional LSTM research toolkit in JAX."""

from jaxlstm import cells as cells
from jaxlstm import estimators as estimators
from jaxlstm import interop as interop
from jaxlstm.cells import Cell as Cell
from jaxlstm.cells import LSTMParams as LSTMParams
from jaxlstm.cells import LSTMState as LSTMState
from jaxlstm.cells import ProjectedLSTMParams as ProjectedLSTMParams
from jaxlstm.cells import init_lstm as init_lstm
from jaxlstm.cells import lstm_cell as lstm_cell
from jaxlstm.cells import zero_state as zero_state
from jaxlstm.checks import check_cell as check_cell
from jaxlstm.checks import check_estimator as check_estimator
from jaxlstm.dropout import Dropout as Dropout
from jaxlstm.estimators import Segment as Segment
from jaxlstm.layers import Directions as Directions
from jaxlstm.model import Model as Model
from jaxlstm.model import ModelParams as ModelParams
from jaxlstm.model import make_model as make_model
from jaxlstm.sequence import lstm as lstm
from jaxlstm.sequence import unroll as unroll
from jaxlstm.stack import init_lstm_stack as init_lstm_stack
from jaxlstm.stack import lstm_stack as lstm_stack
from jaxlstm.stack import lstm_stack_step as lstm_stack_step
from jaxlstm.stack import zero_stack_state as zero_stack_state

__version__ = "0.1.0"
