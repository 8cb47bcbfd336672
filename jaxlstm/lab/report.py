"""What a run says of itself: its README.md, and the table at the end."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from jaxlstm.lab.files import write_text
from jaxlstm.lab.metrics import SHADOW
from jaxlstm.lab.runs import SAMPLES, Run
from jaxlstm.model import count_parameters

# A figure that was not finite is None where it was read from metrics.
Results = Mapping[str, Mapping[str, float | None]]


def print_results(console: Console, results: Results, rows: dict[str, str]) -> None:
    """Prints a short table: what was reached, and where it lies.

    Args:
      console: to print on.
      results: metrics by split.
      rows: further rows.
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for split, values in results.items():
        for name, value in values.items():
            table.add_row(f"{split} {name}", show_figure(value))
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table, highlight=False)


def show_figure(value: float | None) -> str:
    """Returns six digits of a figure, or that it is none."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.6g}"


def write_readme(run: Run, results: Results, pictures: Sequence[Path]) -> None:
    """Writes RUN/README.md: what was trained on what, the figures, how to load it."""
    config = run.config
    sections, facts = config.sections, run.facts
    rows = [
        f"| {split} | {name} | {show_figure(value)} |"
        for split, values in results.items()
        for name, value in values.items()
    ]
    shapes = jax.eval_shape(lambda: run.model.init(jax.random.key(0)))
    devices, versions = facts["devices"], facts["versions"]
    lines = [
        f"# {facts['config']}",
        "",
        f"`{sections.task.use}`, {sections.model.num_layers} x "
        f"{sections.model.hidden_size} {sections.model.cell}, "
        f"{count_parameters(shapes):,} parameters, gradient by "
        f"{sections.estimator.name}, {sections.optimizer.name}, "
        f"{facts['updates']:,} updates, seed {sections.seed}.",
        "",
        *_origin(facts),
        *_data_table(facts["data"]),
        f"Of the parameters after update {run.update:,}{_why(run)}:",
        "",
        "| split | metric | value |",
        "|---|---|---|",
        *rows,
        "",
        *_shadow_table(run),
        f"{facts['seconds']} s on {devices['count']} x {devices['kind']} "
        f"({devices['cores']} cores), "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
        "",
        *[f"![{p.stem}]({p.relative_to(run.path)})" for p in pictures],
        "",
        "The whole config, defaults included, is in [config.toml](config.toml).",
        "",
        "```python",
        "from jaxlstm.lab import load_run",
        "",
        f'run = load_run("{run.path.resolve().name}")',
        "model, params = run.model, run.params",
        *(["vocabulary = run.vocabulary"] if run.vocabulary else []),
        "```",
        "",
        *_samples(run),
    ]
    write_text(run.path / "README.md", "\n".join(lines))


def _why(run: Run) -> str:
    if run.update == run.facts["updates"]:
        return ""
    return ", where the validation loss was lowest"


def _origin(facts: dict[str, Any]) -> list[str]:
    origin = facts.get("imported")
    if origin is None:
        return []
    told = f"`{origin['file']}` ({origin['format']}, SHA-256 {origin['sha256']})"
    return [f"It began with the weights of {told}.", ""]


def _data_table(data: dict[str, Any]) -> list[str]:
    if not data:
        return []
    rows = [f"| {name} | {value} |" for name, value in data.items()]
    return ["| data | |", "|---|---|", *rows, ""]


def _shadow_table(run: Run) -> list[str]:
    last = next((x for x in run.metrics[::-1] if x["split"] == SHADOW), None)
    if last is None:
        return []
    estimator = run.config.sections.estimator
    rows = [
        f"| {shadow.label} | "
        + " | ".join(
            show_figure(last.get(f"{shadow.label}/{figure}"))
            for figure in ("cosine", "norm_ratio")
        )
        + " |"
        for shadow in run.config.shadows
    ]
    return [
        f"Gradients beside that of {estimator.name}, after update {last['update']:,}, "
        f"over {estimator.shadow_segments} segments:",
        "",
        "| gradient | cosine | norm ratio |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _samples(run: Run) -> list[str]:
    name = run.path.resolve().name
    if run.labels is not None:
        return [
            "What it makes of a text:",
            "",
            "```bash",
            f'jaxlstm predict {name} --text "..."',
            "```",
            "",
        ]
    if not run.writes_text:
        return []
    return [
        f"Texts that it writes are in [{SAMPLES}]({SAMPLES}); for more:",
        "",
        "```bash",
        f"jaxlstm sample {name} --length 500 --temperature 0.8",
        "```",
        "",
    ]
