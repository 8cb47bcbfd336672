"""The command line."""

import io
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import jax
from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

import jaxlstm
from jaxlstm.interop.weights import name_leaves
from jaxlstm.lab.cache import keep_compiled
from jaxlstm.lab.checkpoints import DamagedCheckpoint
from jaxlstm.lab.comparison.course import carry_out, renew_report
from jaxlstm.lab.comparison.display import Display
from jaxlstm.lab.comparison.plan import LeftOut, Plan, begin, make_plan, reopen
from jaxlstm.lab.comparison.store import Store
from jaxlstm.lab.config import json_schema, load_config
from jaxlstm.lab.difference import compare_runs, print_comparison
from jaxlstm.lab.errors import UserError, printable
from jaxlstm.lab.experiment import build, build_model
from jaxlstm.lab.fingerprint import Change
from jaxlstm.lab.listing import Sort, list_runs, print_runs
from jaxlstm.lab.lock import hold
from jaxlstm.lab.memory import check_memory, out_of_memory
from jaxlstm.lab.metrics import require_tensorboard
from jaxlstm.lab.plots import draw_comparison, draw_run
from jaxlstm.lab.predicting import NothingKnown, predict_texts, read_texts
from jaxlstm.lab.progress import Terminal
from jaxlstm.lab.report import print_results
from jaxlstm.lab.runner import train_run
from jaxlstm.lab.runs import COMPARISON, CONFIG, PLOTS, Run, load_run
from jaxlstm.lab.sampling import Sampling, sample_text
from jaxlstm.lab.signals import Interrupted, StopRequest
from jaxlstm.lab.start import choose_folder, claim_folder, create_run
from jaxlstm.model import count_parameters
from jaxlstm.shapes import OptionError

app = App(
    name="jaxlstm",
    version=jaxlstm.__version__,
    help="Trains recurrent nets from config files.",
    help_format="plaintext",
)
console = Terminal(markup=False, emoji=False)
# Those that are a line each for the user.
OWN_WARNINGS = DamagedCheckpoint, LeftOut, NothingKnown


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
def compare(
    config: Path,
    /,
    *overrides: str,
    out: Annotated[Path | None, Parameter(name="--out")] = None,
) -> None:
    """Compare gradient estimators, as a config's [compare] section says.

    Parameters
    ----------
    config
        The config file.
    overrides
        Values to change, as section.key=value; a value is written as in TOML, and no
        value removes the key.
    out
        The directory to make; by default runs/NAME-TIME. One that holds the same
        comparison is gone on with.
    """
    keep_compiled()
    loaded = load_config(config, overrides)
    if out is not None and (out / COMPARISON).is_file():
        with hold(out):
            _compare(*reopen(out, loaded))
        return
    folder = choose_folder(loaded, out)
    with Display(console, ["plan"]) as display, StopRequest() as request:
        display.begin("plan")

        def progress(text: str) -> None:
            request.check()
            display.say(text)

        try:
            request.raise_at_once()
            plan = make_plan(loaded, str(config), progress)
            request.check()
        except Interrupted as interrupted:
            console.print("stopped; nothing was made")
            sys.exit(128 + interrupted.signal)
    with claim_folder(folder, named=out is not None) as folder:
        _compare(begin(folder, plan), plan)


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
        with hold(run):
            _compare(*reopen(run))
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


@app.command
def sample(
    run: Path,
    /,
    *,
    prompt: str | None = None,
    length: int = 500,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    num_samples: int = 1,
    checkpoint: Literal["best", "latest"] = "best",
) -> None:
    """Let a run's model go on with a text.

    Parameters
    ----------
    run
        The run directory, of a task on text.
    prompt
        What the model reads first, and what the text begins with. Without one it
        starts as after a line feed, or after the first symbol of its vocabulary.
    length
        How many symbols follow the prompt.
    temperature
        What log-probabilities are divided by: below 1 the likely becomes likelier. 1 by
        default.
    top_k
        Draw from this many of the most probable symbols.
    top_p
        Draw from the fewest of the most probable symbols whose probabilities reach this
        sum; among those of top-k, if both are given.
    greedy
        Take the most probable symbol each time.
    seed
        Of the draws.
    num_samples
        How many texts, computed together.
    checkpoint
        The weights: those of the lowest validation loss, or the latest.
    """
    keep_compiled()
    options = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
    pieces = sample_text(
        load_run(run, checkpoint),
        options,
        prompt=prompt,
        length=length,
        num_samples=num_samples,
        seed=seed,
    )
    _replace_what_cannot_be_shown()
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


@app.command
def predict(
    run: Path,
    /,
    *,
    text: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True)] = (),
    file: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    checkpoint: Literal["best", "latest"] = "best",
) -> None:
    """Say what a run's model takes texts for: label, probability and text, a line each.

    Parameters
    ----------
    run
        The run directory, of a task that sorts texts.
    text
        A text; may be given several times. A hyphen stands for the lines of standard
        input.
    file
        A file with a text a line.
    as_json
        Print a JSON object a line, with the probabilities of all labels.
    checkpoint
        The weights: those of the lowest validation loss, or the latest.
    """
    keep_compiled()
    loaded = load_run(run, checkpoint)
    _replace_what_cannot_be_shown()
    for found in predict_texts(loaded, read_texts(text, file)):
        if as_json:
            print(json.dumps(found._asdict()), flush=True)
            continue
        shown = printable(found.label), f"{found.probability:.4f}"
        print(*shown, printable(found.text), sep="\t", flush=True)


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
    shapes = jax.eval_shape(build_model(loaded).init, jax.random.key(0))
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
        _stop(run.path, interrupted)
    rows = {
        "updates": f"{run.facts['updates']:,} in {took:.1f} s",
        **({} if run.update is None else {"measured": f"after update {run.update:,}"}),
        "run": str(run.path),
        "pictures": ", ".join(str(p) for p in sorted((run.path / PLOTS).glob("*.png"))),
        "config": str(run.path / CONFIG),
    }
    print_results(console, results, rows)


def _compare(store: Store, plan: Plan) -> None:
    """Makes a comparison, or what is left of it."""
    try:
        with StopRequest() as request:
            files = carry_out(store, plan, console, request)
    except Interrupted as interrupted:
        _stop(store.path, interrupted)
    for file in files:
        console.print(str(file), soft_wrap=True)


def _replace_what_cannot_be_shown() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _stop(path: Path, interrupted: Interrupted) -> NoReturn:
    console.print(f"stopped; go on with: jaxlstm resume {path}", soft_wrap=True)
    sys.exit(128 + interrupted.signal)


def _not_taken(token: str) -> str:
    """Returns what to tell the user of a word that a command does not take."""
    if "=" not in token:
        return f"{token}: is not taken here; leave it out, or see --help"
    return (
        f"{token}: only run, compare and show take values; leave it out. A run that "
        "goes on takes them from its config.toml, and from there what --allow-change "
        "names"
    )


def _show_warning(
    message: Warning | str, category: type[Warning], *place: object
) -> None:
    """Prints a warning of ours as a line; others as Python does."""
    if issubclass(category, OWN_WARNINGS):
        print(f"jaxlstm: warning: {message}", file=sys.stderr)
    else:
        _show_other_warning(message, category, *place)  # type: ignore[arg-type]


_show_other_warning = warnings.showwarning


def main(tokens: list[str] | None = None) -> None:
    """Runs a command. Errors of the user's are one line each, and exit code 2."""
    try:
        with warnings.catch_warnings():
            for category in OWN_WARNINGS:
                warnings.simplefilter("always", category)
            warnings.showwarning = _show_warning
            app(
                tokens,
                exit_on_error=False,
                print_error=False,
                result_action="return_none",
            )
    except UserError as error:
        lines = error.lines
    except OptionError as error:
        # Of parts that find each other only as they are compiled.
        lines = (str(error),)
    except UnusedCliTokensError as error:
        lines = tuple(map(_not_taken, error.unused_tokens or ()))
    except CycloptsError as error:
        lines = (" ".join(str(error).split()),)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        told = out_of_memory(error)
        if told is None:
            raise
        lines = told.lines
    except BrokenPipeError:
        # The reader, such as `head`, has had enough. Python would say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    except OSError as error:
        if error.filename is None:
            raise
        lines = (f"{error.filename}: {error.strerror}; name another, or mend it",)
    else:
        return
    for line in lines:
        print(f"jaxlstm: {line}", file=sys.stderr)
    sys.exit(2)
