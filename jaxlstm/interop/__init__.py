"""Weights to and from files and other frameworks."""

from jaxlstm.interop.safetensors import load_safetensors as load_safetensors
from jaxlstm.interop.safetensors import read_safetensors as read_safetensors
from jaxlstm.interop.safetensors import save_safetensors as save_safetensors
from jaxlstm.interop.textbook import from_textbook as from_textbook
from jaxlstm.interop.textbook import to_textbook as to_textbook
from jaxlstm.interop.weights import WeightsError as WeightsError
