"""How well sentences are told apart, with and without vectors, beside a bag of words.

    python benchmarks/sentiment.py [--out DIR] [--seeds N] [--set KEY=VALUE ...]

Trains configs/sentiment_uci.toml, with a smaller net, from each seed, which also draws
the fifth of the sentences that is held out: once with an embedding drawn at random, and
once with one that starts from the 629 most frequent words of GloVe. The accuracy is
that of the parameters with the least loss on validation. In the same run a logistic
regression on bags of words is fitted to the same sentences, its strength chosen on
validation.

Runs lie in DIR, a folder each. What is there already is read, and what was stopped goes
on: the same command takes up where it was ended.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.report import describe_machine  # noqa: E402
from jaxlstm.lab import Run, load_run  # noqa: E402
from jaxlstm.lab.commands import main as run_command  # noqa: E402

CONFIG = ROOT / "configs/sentiment_uci.toml"
NETS = {"drawn": [], "glove": ["task.glove=glove.6B.100d.head629"]}
TITLES = {
    "drawn": "net, embedding drawn",
    "glove": "net, embedding from GloVe's 629 words",
    "bag": "bag of words, logistic regression",
}
# A small net, and the same shapes for every seed, so that a program is compiled once.
COMMON = (
    *("task.vocabulary_size=4000", "task.num_buckets=1", "train.segment_length=40"),
    *("model.hidden_size=32", "train.num_epochs=12", "train.updates_per_call=35"),
    *("devices=1", "logging.every=1000000"),
)


def train(folder: Path, overrides: Sequence[str]) -> Run:
    """Returns a finished run in a folder: the one that is there, or a new one.

    Args:
      folder: of the run.
      overrides: of the config.
    """
    if not (folder / "run.json").is_file():
        run_command(["run", str(CONFIG), "--out", str(folder), *overrides])
    elif load_run(folder).facts["status"] != "finished":
        run_command(["resume", str(folder)])
    return load_run(folder)


def read_accuracy(run: Run) -> float:
    """Returns the accuracy of a run's net on the test."""
    (test,) = (line for line in run.metrics if line["split"] == "test")
    return test["accuracy"]


def format_row(title: str, accuracies: Sequence[float]) -> str:
    """Returns a row of the table: mean, standard deviation, and each accuracy."""
    spread = np.std(accuracies, ddof=1) if len(accuracies) > 1 else math.nan
    each = ", ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)
    return (
        f"| {title} | {100 * np.mean(accuracies):.1f} | {100 * spread:.1f} | {each} |"
    )


def write_table(found: dict[str, list[float]]) -> str:
    """Returns a table of accuracies on the test, in %.

    Args:
      found: the accuracies of all seeds, by a key of `TITLES`.
    """
    lines = ["| | mean | standard deviation | of each seed |", "|---|---|---|---|"]
    lines += [format_row(TITLES[name], values) for name, values in found.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is not there yet, and writes the table."""
    parser = argparse.ArgumentParser(
        description="How well sentences are told apart, beside a bag of words."
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/sentiment"), metavar="DIR")
    add("--seeds", type=int, default=5, metavar="N")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds}: is not positive")
    found: dict[str, list[float]] = {name: [] for name in TITLES}
    seconds = 0.0
    for seed in range(options.seeds):
        seeds = f"seed={seed}", f"task.split_seed={seed}"
        runs = {
            name: train(
                options.out / f"{name}-{seed}", [*COMMON, *own, *seeds, *options.set]
            )
            for name, own in NETS.items()
        }
        for name, run in runs.items():
            found[name].append(read_accuracy(run))
            seconds += run.facts["seconds"]
        # The same sentences for either net.
        found["bag"].append(runs["drawn"].facts["data"]["bag_of_words"]["test"])
    machine = describe_machine()
    text = (
        f"{write_table(found)}\n\nTraining took {seconds:.0f} s in all, on "
        f"{machine['cpu']}, {machine['cores']} cores.\n"
    )
    (options.out / "table.md").write_text(text)
    print(f"\n{text}", end="")


if __name__ == "__main__":
    main()
