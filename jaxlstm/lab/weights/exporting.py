"""Weights of a run, written to a file of another form, and read back from it."""

import contextlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxlstm import interop
from jaxlstm.interop.files import replacement, write_file
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.files import cannot_write, sync
from jaxlstm.lab.runs import VOCABULARY, Run
from jaxlstm.lab.weights.files import ORIGIN, read_named
from jaxlstm.lab.weights.graphs import read_graph
from jaxlstm.lab.weights.notes import (
    describe_run,
    quote,
    takes_state,
    write_model,
    write_note,
    write_session,
)
from jaxlstm.lab.weights.plain import find_layout
from jaxlstm.lab.weights.torch_form import to_names
from jaxlstm.model import ModelParams, count_parameters

ExportFormat = Literal["safetensors", "torch", "onnx"]

ENDINGS: dict[ExportFormat, tuple[str, ...]] = {
    "safetensors": (".safetensors",),
    "torch": (".pt", ".pth", ".safetensors"),
    "onnx": (".onnx",),
}
# Of the metadata of a safetensors file, half of what can be read back.
LONGEST_VOCABULARY = 2 * 2**20


class Exported(NamedTuple):
    """What was written.

    Attributes:
      path: of the file.
      note: how it is loaded, a file beside it.
      arrays: how many the file has.
      parameters: of the model.
      bytes: of the file.
      update: after which the weights are those of the run.
    """

    path: Path
    note: Path
    arrays: int
    parameters: int
    bytes: int
    update: int


def export_run(run: Run, kind: ExportFormat, out: Path | None = None) -> Exported:
    """Writes the weights of a run, reads them back, and puts a note beside them.

    Args:
      run: the run.
      kind: "safetensors": under the names of our own tree; "torch": a state_dict;
        "onnx": a model that onnxruntime runs.
      out: the file, which must not be there; by default weights.ENDING in the run. A
        state_dict goes into a safetensors file where it is named so.

    Raises:
      UserError: the file is there or cannot be written, or the form has no place for
        what the model is made of. Nothing is left behind.
    """
    path = run.path / f"weights{ENDINGS[kind][0]}" if out is None else out
    note = path.with_name(f"{path.name}.md")
    _check_target(path, note, kind)
    params = run.params
    _check_finite(run, params)
    write = {"safetensors": _write_own, "torch": _write_torch, "onnx": _write_onnx}
    try:
        with contextlib.ExitStack() as undo:
            with replacement(path) as new:
                count, text = write[kind](run, params, path, new)
                size = new.stat().st_size
                write_file(note, text.encode())
                undo.callback(note.unlink, missing_ok=True)
            undo.pop_all()
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None
    assert run.update is not None
    return Exported(path, note, count, count_parameters(params), size, run.update)


def _check_target(path: Path, note: Path, kind: ExportFormat) -> None:
    if path.suffix not in ENDINGS[kind]:
        endings = " or ".join(ENDINGS[kind])
        raise UserError(
            f"--out {path}: a file of --format {kind} ends in {endings}; name it so"
        )
    for each in (path, note):
        if os.path.lexists(each):
            raise UserError(f"{each}: is there already; remove it, or name another")
    if not os.path.isdir(path.parent):
        raise UserError(f"--out {path}: {path.parent} is no folder; make it first")


def _check_finite(run: Run, params: ModelParams) -> None:
    lines = [
        f"{run.path}: {name}: {wrong} of {leaf.size} values are not finite; take "
        "another checkpoint or run"
        for name, leaf in name_leaves(params).items()
        if (wrong := int(leaf.size - np.count_nonzero(np.isfinite(leaf))))
    ]
    if lines:
        raise UserError(*lines)


def _write_own(run: Run, params: ModelParams, path: Path, new: Path) -> tuple[int, str]:
    """Writes the tree as it is, and what it is of; returns its size, and the note."""
    arrays = {name: np.asarray(leaf) for name, leaf in name_leaves(params).items()}
    with _refused(path):
        interop.save_safetensors(new, params, metadata=describe(run))
    _compare(new, read_named(new, "safetensors").arrays, arrays)
    loading = [
        *write_model(run),
        "template = jax.eval_shape(model.init, jax.random.key(0))",
        f"params = interop.load_safetensors({quote(path.name)}, template)",
    ]
    return len(arrays), write_note(run, path, "safetensors", None, loading)


def describe(run: Run) -> dict[str, str]:
    """Returns what a file says of the run whose weights it has."""
    entries = {
        "about": describe_run(run),
        "config": run.config.to_toml(),
        "parts": json.dumps(run.facts["parts"]),
        "run": run.facts.get("id", ""),
        "update": str(run.update),
    }
    if run.labels is not None:
        entries["labels"] = json.dumps(run.labels)
    if run.vocabulary is not None:
        text = (run.path / VOCABULARY).read_text(encoding="ascii")
        if len(text) <= LONGEST_VOCABULARY:
            entries["vocabulary"] = text
    return entries


def _write_torch(
    run: Run, params: ModelParams, path: Path, new: Path
) -> tuple[int, str]:
    """Writes a state_dict; returns its size, and the note."""
    parts = run.facts["parts"]
    symbols = parts["input_size"] if parts["symbols"] else None
    layout = find_layout(run.config, params, symbols, "--format torch")
    arrays = to_names(params, layout)
    if path.suffix == ".safetensors":
        with _refused(path):
            interop.save_safetensors(
                new, arrays, metadata={"format": "pt"} | describe(run)
            )
        loading = [
            "from safetensors.torch import load_file",
            "",
            f"net.load_state_dict(load_file({quote(path.name)}))",
        ]
    else:
        _save_torch(new, path, arrays, describe(run))
        loading = [
            f"net.load_state_dict(torch.load({quote(path.name)}, weights_only=True))"
        ]
    found = "safetensors" if path.suffix == ".safetensors" else "torch"
    _compare(new, read_named(new, found).arrays, arrays)
    return len(arrays), write_note(run, path, "torch", layout, loading)


def _save_torch(
    new: Path, path: Path, arrays: Mapping[str, np.ndarray], origin: dict[str, str]
) -> None:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        other = path.with_suffix(".safetensors").name
        raise UserError(
            "--format torch: torch is not installed; pip install torch, or give --out "
            f"{other}, a safetensors file of the same names"
        ) from None
    state_dict: Any = OrderedDict(
        (name, torch.tensor(array)) for name, array in arrays.items()
    )
    # Which load_state_dict passes over: its modules have no such name.
    state_dict._metadata = OrderedDict({ORIGIN: origin})
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    write_file(new, buffer.getvalue())


def _write_onnx(
    run: Run, params: ModelParams, path: Path, new: Path
) -> tuple[int, str]:
    """Writes a model of ONNX; returns how many arrays it has, and the note."""
    section, parts = run.config.sections.model, run.facts["parts"]
    inputs = (section.inputs or "one_hot") if parts["symbols"] else "float"
    with _refused(path):
        interop.model_to_onnx(
            new,
            params,
            cell=section.cell,
            options=run.config.cell_options,
            inputs=inputs,
            connections=section.connections,
            lengths=section.bidirectional,
            last=section.bidirectional,
            initial_state=takes_state(run),
            metadata=describe(run),
        )
    arrays = {name: np.asarray(leaf) for name, leaf in name_leaves(params).items()}
    _compare(new, read_graph(new, "onnx", run.config, params).arrays, arrays)
    loading = write_session(run, path.name)
    return len(arrays), write_note(run, path, "onnx", None, loading)


@contextlib.contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turns what a writer refuses into what the user is told."""
    try:
        yield
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from None


def _compare(
    new: Path, back: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Raises unless a file holds the arrays that were written, to the last bit."""
    wrong = [
        name
        for name in [*arrays, *(name for name in back if name not in arrays)]
        if name not in back
        or name not in arrays
        or not _is_same(np.asarray(back[name]), arrays[name])
    ]
    if wrong:
        raise UserError(
            f"{new}: {wrong[0]}: is not what was written, as it is read back; look to "
            "the disk, and write it again"
        )


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.shape, one.dtype) == (
        other.shape,
        other.dtype,
    ) and one.tobytes() == other.tobytes()
