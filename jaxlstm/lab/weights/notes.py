"""The note beside a file of weights: what it is of, and how it is loaded."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlstm.cells import CELLS
from jaxlstm.lab.errors import printable
from jaxlstm.lab.runs import CONFIG, VOCABULARY, Run
from jaxlstm.lab.weights.files import Format
from jaxlstm.lab.weights.matching import NEUTRAL
from jaxlstm.lab.weights.plain import Layout, first_cell
from jaxlstm.lab.weights.torch_form import write_module
from jaxlstm.model import make_model

# A vocabulary of more symbols is left in its own file.
MOST_SYMBOLS = 300
# Options of a model that a config has under the same name, but for those that change
# neither its parameters nor what it computes.
SHARED = (
    "hidden_size",
    "num_layers",
    "bidirectional",
    "connections",
    "embedding_size",
    "tied",
    "readout",
    "learned_initial_state",
)


def describe_run(run: Run) -> str:
    """Returns in a line what weights are of."""
    sections, data = run.config.sections, run.facts["data"]
    model = sections.model
    facts = [
        f"{model.num_layers} x {model.hidden_size} {model.cell}",
        "in both directions" if model.bidirectional else "",
        f"trained on {Path(str(data['source'])).name}" if "source" in data else "",
        f"after update {run.update:,}",
    ]
    return printable(", ".join(fact for fact in facts if fact))


def write_model(run: Run) -> list[str]:
    """Returns Python that makes the model of a run, line by line."""
    config = run.config
    section, parts = config.sections.model, run.facts["parts"]
    if section.cell not in CELLS:
        return [
            "import jax",
            "",
            "from jaxlstm import interop",
            "from jaxlstm.lab import load_run",
            "",
            'model = load_run("RUN").model  # Its cell is the run\'s own.',
        ]
    options = {
        "input_size": parts["input_size"],
        "output_size": parts["output_size"],
        "inputs": (section.inputs or "one_hot") if parts["symbols"] else "float",
        **{name: getattr(section, name) for name in SHARED},
    }
    if section.dtype != "float32":
        options["dtype"] = section.dtype
    told = _tell_options(make_model, options)
    cell_options = {k: v for k, v in config.cell_options.items() if k not in NEUTRAL}
    cell = ", ".join(_tell_options(CELLS[section.cell], cell_options))
    return [
        "import jax",
        "",
        "from jaxlstm import interop, make_model",
        "from jaxlstm.cells import CELLS",
        "",
        "model = make_model(",
        f'    CELLS["{section.cell}"]({cell}),',
        *[f"    {option}," for option in told],
        ")",
    ]


def takes_state(run: Run) -> bool:
    """Returns whether a model of ONNX is given the state that it starts from."""
    section = run.config.sections.model
    return not (section.bidirectional or section.learned_initial_state)


def write_session(run: Run, name: str) -> list[str]:
    """Returns Python that opens a model of ONNX, line by line.

    Args:
      run: whose model it is.
      name: of the file.
    """
    section, parts = run.config.sections.model, run.facts["parts"]
    floats = f"np.{section.dtype}"
    inputs = "(7, 2), np.int64"
    if not parts["symbols"]:
        inputs = f"(7, 2, {parts['input_size']}), {floats}"
    lines = [
        "import numpy as np",
        "import onnxruntime",
        "",
        f"session = onnxruntime.InferenceSession({quote(name)})",
        f'feeds = {{"X": np.zeros({inputs})}}',
    ]
    if takes_state(run):
        letters = first_cell(run.model.initial_state(run.params, ()))._fields
        shape = f"({section.num_layers}, 2, {section.hidden_size}), {floats}"
        lines += [
            f'feeds["initial_{letter}"] = np.zeros({shape})' for letter in letters
        ]
    if section.bidirectional:
        lines.append('feeds["sequence_lens"] = np.array([7, 5], np.int32)')
    found = "prediction" if section.bidirectional else "predictions"
    return [*lines, f"{found}, *states = session.run(None, feeds)"]


def quote(text: str) -> str:
    """Returns text as it is written in Python."""
    return json.dumps(text, ensure_ascii=False)


def _tell_options(function: Callable[..., Any], options: dict[str, Any]) -> list[str]:
    """Returns the options that are not a function's defaults, as they are written."""
    parameters = inspect.signature(function).parameters
    return [
        f"{name}={value!r}".replace("'", '"')
        for name, value in options.items()
        if name in parameters and parameters[name].default != value
    ]


def write_note(
    run: Run, path: Path, kind: Format, layout: Layout | None, loading: list[str]
) -> str:
    """Returns the note beside a file, in Markdown.

    Args:
      run: whose weights they are.
      path: of the file.
      kind: the names of its arrays.
      layout: of the model, where the file is one for PyTorch.
      loading: what follows it: Python, line by line, that loads the file.
    """
    code = loading
    if layout is not None:
        code = [*write_module(layout), *loading, "net.eval()"]
    return "\n".join(
        [
            f"# {path.name}",
            "",
            f"Weights of the run {run.facts['config']}: {describe_run(run)}.",
            "",
            "```python",
            *code,
            "```",
            "",
            *_tell_inputs(run, kind),
            "Into a run again, on which all commands work:",
            "",
            "```bash",
            f"jaxlstm import {path.name} {CONFIG} --out RUN",
            "```",
            "",
        ]
    )


def _tell_inputs(run: Run, kind: Format) -> list[str]:
    lines = ["Time is the first axis: inputs are [T, B, ...].", ""]
    if run.config.sections.model.bidirectional and kind != "safetensors":
        lines[0] += " Padding may stand only behind a sequence, " + (
            "as `sequence_lens` says."
            if kind == "onnx"
            else "whose `lengths` [B] the module then takes."
        )
    dropout = run.config.sections.model.dropout.model_dump()
    rates = {name: rate for name, rate in dropout.items() if rate and rate is not True}
    if rates and kind != "safetensors":
        lines += [
            f"It was trained with dropout ({', '.join(rates)}), of which the file has "
            "none.",
            "",
        ]
    if run.labels is not None:
        lines += [f"Labels, by number: `{json.dumps(run.labels)}`.", ""]
    vocabulary = run.vocabulary
    if vocabulary is None:
        return lines
    if len(vocabulary) > MOST_SYMBOLS:
        where = (run.path / VOCABULARY).name
        told = f"{len(vocabulary):,} {vocabulary.unit}, in the run's `{where}`."
        return [*lines, f"Symbols are the places of {told}", ""]
    return [
        *lines,
        f"Symbols are places in this list of {vocabulary.unit}:",
        "",
        "```json",
        json.dumps(vocabulary.symbols),
        "```",
        "",
    ]
