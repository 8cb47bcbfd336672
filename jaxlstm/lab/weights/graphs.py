"""Files of whole models, of ONNX and Keras, as arrays under the names of our own tree.

Such a file says how its layers compute, which is held against the cell of a config.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import interop
from jaxlstm.cells import CELLS, Cell
from jaxlstm.interop.keras.running import (
    KerasDense,
    KerasEmbedding,
    KerasLayer,
    KerasModel,
    KerasRecurrent,
)
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.config import Config
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.weights.files import Format, Named
from jaxlstm.lab.weights.plain import are_alike, first_cell, join_shape
from jaxlstm.model import ModelParams, ReadoutParams, RecurrentParams

# What the loss of a task makes of predictions by itself.
OUTPUTS = "identity", "sigmoid", jax.nn.softmax, jax.nn.log_softmax


def read_graph(path: Path, found: Format, config: Config, template: Any) -> Named:
    """Returns the arrays of a model file by the names of our own tree.

    Args:
      path: of the file.
      found: its format, "onnx" or "keras".
      config: whose model the file is held against.
      template: the parameters of that, or what has their shapes.

    Raises:
      UserError: the file cannot be read, has more than a model has, or computes
        something else.
    """
    read = _read_onnx if found == "onnx" else _read_keras
    with _refused(path):
        params, metadata = read(path, config, template)
    if template.readout.w is None and params.readout.w is not None:
        params = _tie(path, params)
    return Named(name_leaves(params), metadata)


def _read_onnx(
    path: Path, config: Config, template: Any
) -> tuple[ModelParams, dict[str, str]]:
    connections = config.sections.model.connections
    model = interop.load_onnx(path)
    params = interop.model_from_onnx(model, connections=connections)
    name, layer = next(iter(model.layers.items()))
    first = first_cell(params.recurrent.layers)
    _check_cell(path, name, CELLS[layer.name](**layer.options), config, first)
    params = _take_heads_apart(path, params, template)
    start = template.recurrent.initial_state
    if start is not None and params.recurrent.initial_state is None:
        # A file has no place for a state of zeros.
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), start)
        params = params._replace(
            recurrent=params.recurrent._replace(initial_state=start)
        )
    return params, model.metadata


def _read_keras(
    path: Path, config: Config, template: Any
) -> tuple[ModelParams, dict[str, str]]:
    model = interop.load_keras(path)
    _check_layers(path, model)
    tables = [each.table for each in model.layers if isinstance(each, KerasEmbedding)]
    readouts = [
        each.params
        for each in model.layers
        if isinstance(each, KerasDense) and each.params is not None
    ]
    params = ModelParams(
        RecurrentParams(
            tables[0] if tables else None,
            tuple(layer.params for layer in model.recurrent),
            None,
        ),
        readouts[0] if readouts else ReadoutParams(None, None),
    )
    for layer, own in zip(model.recurrent, params.recurrent.layers, strict=True):
        _check_cell(path, layer.name, layer.cell, config, first_cell((own,)))
    return _take_heads_apart(path, params, template), {}


def _check_layers(path: Path, model: KerasModel) -> None:
    """Raises unless layers are those of a model here, in its order."""
    lines = [] if model.branches is None else [f"is no chain: {model.branches}"]
    places = [n for n, layer in enumerate(model.layers) if _has_weights(layer)]
    weighted = [model.layers[n] for n in places]
    ranks = [
        (KerasEmbedding, KerasRecurrent, KerasDense).index(type(x)) for x in weighted
    ]
    if ranks != sorted(ranks) or max(map(ranks.count, (0, 2))) > 1 or 1 not in ranks:
        names = ", ".join(layer.name for layer in weighted)
        lines.append(
            f"has the layers {names}; a model here has an embedding at most, recurrent "
            "layers, and one Dense layer at most above them"
        )
    for layer in model.layers:
        if isinstance(layer, KerasRecurrent):
            if layer.go_backwards:
                lines.append(f"{layer.name}: go_backwards has no form here")
            if layer.merge_mode not in (None, "concat"):
                lines.append(
                    f'{layer.name}: merge_mode "{layer.merge_mode}" has no form here, '
                    'which is "concat"'
                )
    acting = [
        (n, layer)
        for n, layer in enumerate(model.layers)
        if isinstance(layer, KerasDense) and layer.activation != "identity"
    ]
    for count, (n, layer) in enumerate(acting):
        last = n >= (places or [0])[-1] and count == len(acting) - 1
        if not last or layer.activation not in OUTPUTS:
            lines.append(f"{layer.name}: its activation has no form here")
    if lines:
        raise UserError(*(f"{path}: {line}" for line in lines))


def _has_weights(layer: KerasLayer) -> bool:
    dense = isinstance(layer, KerasDense) and layer.params is not None
    return dense or isinstance(layer, KerasEmbedding | KerasRecurrent)


def _take_heads_apart(path: Path, params: ModelParams, template: Any) -> ModelParams:
    """Returns parameters with recurrent weights in heads where a template has them so.

    A file has one matrix for all heads, which is zero between them.
    """
    leaves, wanted = name_leaves(params), name_leaves(template)
    for name, leaf in leaves.items():
        shape = wanted[name].shape if name in wanted else leaf.shape
        if leaf.shape == shape or leaf.shape != join_shape(shape):
            continue
        heads, width, gates, out = shape
        whole = np.asarray(leaf).reshape(heads, width, gates, heads, out)
        between = ~np.eye(heads, dtype=bool)[:, None, None, :, None]
        wrong = np.count_nonzero(np.where(between, whole, 0))
        if wrong:
            raise UserError(
                f"{path}: {name}: {wrong} numbers between its heads are not zero, and "
                f"the config's model has {heads} heads; change the config"
            )
        leaves[name] = jnp.asarray(np.einsum("ndgne->ndge", whole))
    return jax.tree.unflatten(jax.tree.structure(params), leaves.values())


def _check_cell(path: Path, name: str, cell: Cell, config: Config, shapes: Any) -> None:
    """Raises if a layer of a file computes what a config's cell does not.

    Cells whose parameters are of another form are found by these.
    """
    wanted = jax.eval_shape(
        lambda: config.cell.init(
            jax.random.key(0), shapes.w_x.shape[0], config.sections.model.hidden_size
        )
    )
    same = {n: join_shape(x.shape) for n, x in name_leaves(wanted).items()} == {
        n: x.shape for n, x in name_leaves(shapes).items()
    }
    if same and not are_alike(config.cell, cell, wanted, shapes):
        raise UserError(
            f"{path}: {name}: computes what model.cell = "
            f'"{config.sections.model.cell}" of the config does not, by the same '
            "arrays; change the cell or its options"
        )


def _tie(path: Path, params: ModelParams) -> ModelParams:
    table, w = params.recurrent.embedding, params.readout.w
    if table is None or not np.array_equal(np.asarray(table).T, w):
        raise UserError(
            f"{path}: the weights of its readout are not those of its embedding, and "
            "the config has model.tied = true; use model.tied=false"
        )
    return params._replace(readout=params.readout._replace(w=None))


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except interop.WeightsError as error:
        lines = (line.removeprefix(f"{path}: ") for line in error.lines)
        raise UserError(*(f"{path}: {line}" for line in lines)) from None
    except ImportError as error:
        raise UserError(f"{path}: {error}") from None
