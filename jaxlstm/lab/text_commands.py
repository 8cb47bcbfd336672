"""The commands on texts: sample and predict."""

import io
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from jaxlstm.lab.cache import keep_compiled
from jaxlstm.lab.errors import printable
from jaxlstm.lab.predicting import predict_texts, read_texts
from jaxlstm.lab.runs import load_run
from jaxlstm.lab.sampling import Sampling, sample_text


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


def _replace_what_cannot_be_shown() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
