"""Weights to and from files and other frameworks."""

from jaxlstm.interop.safetensors import load_safetensors as load_safetensors
from jaxlstm.interop.safetensors import read_metadata as read_metadata
from jaxlstm.interop.safetensors import read_safetensors as read_safetensors
from jaxlstm.interop.safetensors import save_safetensors as save_safetensors
from jaxlstm.interop.textbook import from_textbook as from_textbook
from jaxlstm.interop.textbook import from_tutorial as from_tutorial
from jaxlstm.interop.textbook import to_textbook as to_textbook
from jaxlstm.interop.textbook import to_tutorial as to_tutorial
from jaxlstm.interop.torch import from_torch as from_torch
from jaxlstm.interop.torch import to_torch as to_torch
from jaxlstm.interop.torch_model import embedding_from_torch as embedding_from_torch
from jaxlstm.interop.torch_model import embedding_to_torch as embedding_to_torch
from jaxlstm.interop.torch_model import linear_from_torch as linear_from_torch
from jaxlstm.interop.torch_model import linear_to_torch as linear_to_torch
from jaxlstm.interop.torch_model import model_from_torch as model_from_torch
from jaxlstm.interop.torch_model import model_to_torch as model_to_torch
from jaxlstm.interop.torch_states import batch_first as batch_first
from jaxlstm.interop.torch_states import state_from_torch as state_from_torch
from jaxlstm.interop.torch_states import state_to_torch as state_to_torch
from jaxlstm.interop.torch_states import time_major as time_major
from jaxlstm.interop.weights import WeightsError as WeightsError
