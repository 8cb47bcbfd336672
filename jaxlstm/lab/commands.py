"""The command line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
from cyclopts import App, Parameter

import jaxlstm
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.cache import keep_compiled
from jaxlstm.lab.comparison.command import compare, go_on
from jaxlstm.lab.comparison.course import renew_report
from jaxlstm.lab.complaints import as_lines
from jaxlstm.lab.config import json_schema, load_config
from jaxlstm.lab.difference import compare_runs, print_comparison
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.experiment import build, build_model, make_estimators
from jaxlstm.lab.fingerprint import Change
from jaxlstm.lab.listing import Sort, list_runs, print_runs
from jaxlstm.lab.lock import hold
from jaxlstm.lab.memory import check_memory
from jaxlstm.lab.metrics import require_tensorboard
from jaxlstm.lab.plots import draw_comparison, draw_run
from jaxlstm.lab.report import print_results
from jaxlstm.lab.runner import train_run
from jaxlstm.lab.runs import COMPARISON, CONFIG, PLOTS, Run, load_run
from jaxlstm.lab.screen import console, stop
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.lab.start import choose_folder, claim_folder, create_run
from jaxlstm.lab.text_commands import predict, sample
from jaxlstm.lab.weights.command import export, import_
from jaxlstm.model import count_parameters

app = App(
    name="jaxlstm",
    version=jaxlstm.__version__,
    help="Trains recurrent nets from config files.",
    help_format="plaintext",
)
for command in compare, sample, predict, export:
    app.command(command)
app.command(import_, name="import")


@app.command
def run(
    config: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Train what a config file describes.

    Parameters
    ----------
    config
        The config file.
    overrides
        Values to change, as section.key=value; a value is written as in TOML, and no
        value removes the key.
    out
        The run directory to make; by default runs/NAME-TIME.
    """
    keep_compiled()
    loaded = load_config(config, overrides)
    folder = choose_folder(loaded, out)
    experiment = build(loaded)
    check_memory(experiment)
    if loaded.sections.logging.tensorboard:
        require_tensorboard()
    with claim_folder(folder, named=out is not None) as folder:
        _train(create_run(folder, experiment), None)


@app.command
def resume(
    run: Path,
    /,
    *,
    allow_change: Annotated[tuple[str, ...], Parameter(negative="")] = (),
) -> None:
    """Go on with a run from its latest checkpoint, or a comparison, to the same bytes.

    Parameters
    ----------
    run
        The run directory, or that of a comparison.
    allow_change
        What may differ from what the run began with, and is refused otherwise: a key of
        its config.toml, such as train.num_updates; versions.jax, devices.count, or a
        whole group, such as versions. May be given several times.
    """
    keep_compiled()
    if (run / COMPARISON).is_file():
        if allow_change:
            raise UserError(
                f"--allow-change {allow_change[0]}: {run} is a comparison, in which "
                "nothing may change; begin another one"
            )
        go_on(run)
        return
    loaded = load_run(run)
    with hold(run):
        finished = loaded.facts["status"] == "finished"
        if not loaded.changed_settings(allow_change) and finished:
            console.print(
                f"{run}: is finished; `jaxlstm eval {run}` shows its figures",
                soft_wrap=True,
            )
            return
        changes = loaded.check_unchanged(allow_change)
        check_memory(loaded.experiment)
        _train(loaded, changes)


@app.command(name="eval")
def evaluate(
    run: Path,
    /,
    *,
    split: str | None = None,
    checkpoint: Literal["best", "latest"] = "best",
) -> None:
    """Measure a run's checkpoint.

    Parameters
    ----------
    run
        The run directory.
    split
        What to measure on: validation, test, or what else the task has. All of
        them by default.
    checkpoint
        The weights: those of the lowest validation loss, or the latest.
    """
    keep_compiled()
    loaded = load_run(run, checkpoint)
    experiment = loaded.experiment
    splits = loaded.task.splits if split is None else (split,)
    if not splits:
        raise UserError(
            f"{run}: its task has no split beside train; measure that by --split train"
        )
    sources = {name: experiment.split(name) for name in splits}
    for name, source in sources.items():
        if source.num_segments is None:
            raise UserError(
                f"--split {name}: a stream without end; use one of "
                f"{', '.join(loaded.task.splits)}"
            )
    params = loaded.params
    results = {
        name: experiment.evaluator(params, source, experiment.batch_size)
        for name, source in sources.items()
    }
    print_results(console, results, {"update": str(loaded.update)})


@app.command
def plot(
    run: Path,
    /,
    *runs: Path,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Draw a run's pictures, or the losses of several runs together.

    Parameters
    ----------
    run
        The run directory; or that of a comparison, whose report is written again.
    runs
        Further ones.
    out
        The picture of several runs; by default comparison.png.
    """
    if (run / COMPARISON).is_file() and not runs and out is None:
        for file in renew_report(run):
            console.print(str(file), soft_wrap=True)
        return
    loaded = [load_run(path) for path in (run, *runs)]
    if runs:
        file = draw_comparison(loaded, out or Path("comparison.png"))
        console.print(str(file), soft_wrap=True)
        return
    if out is not None:
        raise UserError(f"--out: one run's pictures go to {run / PLOTS}; leave it out")
    for file in draw_run(loaded[0]):
        console.print(str(file), soft_wrap=True)


@app.command(name="list")
def list_(folder: Path = Path("runs"), /, *, sort: Sort = "time") -> None:
    """Show the runs in a folder: how far they came, and how well they do.

    Parameters
    ----------
    folder
        Holds run directories, or folders of them; or is one.
    sort
        What the last one has: the latest time, or the lowest loss.
    """
    print_runs(console, list_runs(folder, sort))


@app.command
def diff(first: Path, second: Path, /) -> None:
    """Show how two runs differ: in config, in what made them, and in figures.

    Parameters
    ----------
    first
        A run directory.
    second
        Another one.
    """
    print_comparison(console, first, second, compare_runs(first, second))


@app.command
def show(config: Path | None = None, /, *overrides: str, schema: bool = False) -> None:
    """Show a config with its defaults, the shapes of its parameters and their number.

    Parameters
    ----------
    config
        The config file.
    overrides
        Values to change, as section.key=value.
    schema
        Show the JSON Schema of config files instead, for editors; with a config,
        including the keys of its task.
    """
    if schema:
        print(json.dumps(json_schema(config), indent=2))
        return
    if config is None:
        raise UserError("show: name a config file, or use --schema")
    loaded = load_config(config, overrides)
    model = build_model(loaded)
    make_estimators(loaded, model)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    print(loaded.to_toml())
    for name, leaf in name_leaves(shapes).items():
        print(f"# {name:40} {leaf.dtype.name} {list(leaf.shape)}")
    print(f"# {count_parameters(shapes):,} parameters")


def _train(run: Run, changes: Sequence[Change] | None) -> None:
    """Trains a run to its end.

    Args:
      run: the run.
      changes: of its fingerprint since it was last trained; None at its beginning.
    """
    try:
        with StopRequest() as request:
            results, took = train_run(run, console, request, changes)
    except Interrupted as interrupted:
        stop(run.path, interrupted)
    rows = {
        "updates": f"{run.facts['updates']:,} in {took:.1f} s",
        **({} if run.update is None else {"measured": f"after update {run.update:,}"}),
        "run": str(run.path),
        "pictures": ", ".join(str(p) for p in sorted((run.path / PLOTS).glob("*.png"))),
        "config": str(run.path / CONFIG),
    }
    print_results(console, results, rows)


def main(tokens: list[str] | None = None) -> None:
    """Runs a command. Errors of the user's are one line each, and exit code 2."""
    with as_lines():
        app(
            tokens,
            exit_on_error=False,
            print_error=False,
            result_action="return_none",
        )
