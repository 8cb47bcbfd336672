"""Whole models that Keras saved."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxlstm.interop.files import FilePath
from jaxlstm.interop.keras.archive import LEGACY, Archive, read_archive
from jaxlstm.interop.keras.config import Options, read_keras_layer
from jaxlstm.interop.keras.graph import MASKS, find_branches
from jaxlstm.interop.keras.running import KerasModel
from jaxlstm.interop.tensors import check_names
from jaxlstm.interop.weights import WeightsError, prefix, show

MODELS = "Sequential", "Functional", "Model"
# What a class of layers with weights is called in the weights of a `.keras` file.
GROUPS = {
    "LSTM": "lstm",
    "GRU": "gru",
    "SimpleRNN": "simple_rnn",
    "Bidirectional": "bidirectional",
    "Embedding": "embedding",
    "Dense": "dense",
    "TimeDistributed": "time_distributed",
}


def load_keras(path: FilePath, *, dtype: Any = None) -> KerasModel:
    """Returns the layers of a model that Keras saved, ready to run without it.

    Args:
      path: of a file of `model.save`: `.keras`, or `.h5` of Keras 1 to 3.
      dtype: of the parameters; by default that of the arrays.

    Returns:
      The layers, from the input up.

    Raises:
      ImportError: the package h5py is not installed.
      OSError: the file cannot be opened.
      WeightsError: the file is damaged; a layer is of a kind, or has an option, that
        has no counterpart here; or weights are missing, in excess or mis-shaped.
    """
    archive = read_archive(path)
    try:
        return _read_model(archive, dtype)
    except WeightsError as error:
        raise prefix(path, error.lines) from None
    except RecursionError:
        raise WeightsError(f"{path}: config: is too deep") from None


def _read_model(archive: Archive, dtype: Any) -> KerasModel:
    kind, config = archive.config.get("class_name"), archive.config.get("config")
    if kind not in MODELS:
        raise WeightsError(
            f"config: {show(repr(kind))} is neither Sequential nor Functional, and "
            "what it computes is not in the file; give from_keras the get_weights() of "
            "its layers"
        )
    # In Keras 1 the config of a Sequential was the list of its layers.
    found = config.get("layers") if isinstance(config, dict) else config
    if not isinstance(found, list) or not found:
        raise WeightsError("config: has no list of layers")
    options = [
        Options(layer, archive.version)
        for layer in found
        if not (isinstance(layer, dict) and layer.get("class_name") in MASKS)
    ]
    reader = _Reader(archive, dtype)
    layers, faults = [], []
    for layer in options:
        try:
            layers.append(reader.read(layer))
        except WeightsError as error:
            faults += error.lines
    if not faults:
        faults = reader.find_excess()
    if faults:
        raise WeightsError(*faults)
    branches = None if kind == "Sequential" else find_branches(found, config)
    return KerasModel(tuple(layers), branches, archive.version)


class _Reader:
    """Hands the arrays of a file to the layers that they belong to."""

    def __init__(self, archive: Archive, dtype: Any):
        self._archive, self._dtype = archive, dtype
        self._counts: Counter[str] = Counter()
        self._used: set[str] = set()

    def read(self, layer: Options) -> Any:
        """Returns a layer with its weights."""
        group = GROUPS.get(layer.kind, "")
        number = self._counts[group]
        self._counts[group] += 1
        place = f"layers/{group}_{number}" if number else f"layers/{group}"

        def find(parts: Sequence[str], each: int) -> list[np.ndarray]:
            orders, arrays = self._archive.orders, self._archive.arrays
            if orders is None:
                names = [f"{place}/{part}/{n}" for part in parts for n in range(each)]
            else:
                names = orders.get(layer.name, [])
                if len(names) != each * len(parts):
                    raise layer.refuse(
                        f"has {len(names)} arrays, and not {each * len(parts)}"
                    )
            check_names((name for name in names if name in arrays), names, "")
            self._used.update(names)
            found = [arrays[name] for name in names]
            if self._dtype is None:
                return found
            return [array.astype(self._dtype) for array in found]

        return read_keras_layer(layer, find)

    def find_excess(self) -> list[str]:
        """Returns a line for each array that no layer has asked for."""
        return [
            f"{show(name)}: is of no layer of the config"
            for name in self._archive.arrays
            if name not in self._used
            and name.startswith(("layers/", f"{LEGACY}/"))
            and "seed_generator" not in name
        ]
