"""Modules of Flax over the functions of this package.

`jaxlstm.flax.linen` and `jaxlstm.flax.nnx` stand where `flax.linen` and `flax.nnx` do:
whatever they do not replace is Flax's own. The names here are those of linen.
"""

from jaxlstm.flax.linen import LSTM as LSTM
from jaxlstm.flax.linen import RNN as RNN
from jaxlstm.flax.linen import Bidirectional as Bidirectional
from jaxlstm.flax.linen import LSTMCell as LSTMCell
from jaxlstm.flax.linen import OptimizedLSTMCell as OptimizedLSTMCell
from jaxlstm.flax.linen import ScannedLSTM as ScannedLSTM
