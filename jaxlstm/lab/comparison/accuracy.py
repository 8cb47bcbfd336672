"""How close each estimator's gradient comes to the exact one, and how noisy it is."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxlstm.diagnostics.alignment import align_vectors
from jaxlstm.lab.comparison.bench import Bench, Exact, Stand
from jaxlstm.lab.comparison.gradients import (
    DTYPE,
    Runner,
    collect,
    finite,
    measure_bias,
    spread,
)
from jaxlstm.lab.comparison.problem import Member, Part, Problem, Snapshot, as_dtype
from jaxlstm.lab.comparison.windows import Window


def measure(
    problem: Problem, *, num_windows: int, segments_per_window: int, num_draws: int
) -> Part:
    """Measures bias, variance and reach of each member's gradient, in float64.

    Gradients are sums over a window, segments of training data in a row, which begins
    from the model's initial state with a fresh state of the estimator. With g the mean
    over windows of the exact gradient, and g^ that of a member and of its draws:

        cosine, norm_ratio    of g^ beside g, whole and by block
        relative_bias         |g^ - g| / |g|
        noise_floor           what it comes to by chance: the square root of the
                              variance of g^ over |g|; None of a member that does not
                              draw, which is known by its gradients
        debiased              sqrt(max(0, relative_bias^2 - noise_floor^2))
        draw_variance         trace of the covariance of draws on a window, over |g|^2
        data_variance         the same, of the mean over draws from window to window;
                              None where the noise of the draws hides it

    One draw does not tell the noise, and one window nothing of the data: what takes
    them is None.

    *Frozen*: the weights stand still, and exact is the gradient of the window as one
    sequence. *Online*: they move from segment to segment as `Reference` moves them;
    exact is the sum of the gradients of each segment's loss by the weights of then,
    through the whole window so far. *Reach*: the loss is that of one step, the last one
    scored in the first window, which k others come before.

    Where the model draws as well, as with dropout, each draw is compared with the exact
    gradient under its own noise, and variances are those of the difference.

    Args:
      problem: what to measure on.
      num_windows: W.
      segments_per_window: how many segments a window is long.
      num_draws: N, gradients of each window by a member that draws.

    Returns:
      The figures, as `docs/compare.md` lists them; the exact gradients [W, P] and the
      raw draws [W, N, P] in float32. Of these there are the first `num_kept_draws`,
      so that they take 64 MiB at most.
    """
    with jax.enable_x64(True):
        bench = Bench(problem, num_windows, segments_per_window, num_draws)
        kept = bench.count_kept()
        snapshots, arrays = [], {}
        for snapshot in problem.snapshots:
            values, found = _measure_snapshot(bench, snapshot, kept)
            snapshots.append(values)
            arrays |= found
        values = {
            "num_windows": num_windows,
            "segments_per_window": segments_per_window,
            "num_draws": num_draws,
            "num_kept_draws": kept,
            "blocks": list(bench.blocks),
            "snapshots": snapshots,
            "reach": _measure_reach(bench, snapshots[-1]["members"]),
        }
        return Part(values, arrays)


def _measure_snapshot(
    bench: Bench, snapshot: Snapshot, kept: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the figures of a snapshot, and its raw gradients."""
    problem, update, stand = bench.problem, snapshot.update, Stand(bench, snapshot)
    exact = stand.find_exact()
    means, true = exact.frozen.mean(axis=1), exact.frozen.mean(axis=(0, 1))
    arrays: dict[str, np.ndarray] = {f"exact-{update}": means.astype(np.float32)}
    directions, members = [true], {}
    for member in problem.members:
        piece = problem.keep(
            f"{member.label} at update {update}",
            functools.partial(_measure_member, bench, stand, exact, member, kept),
        )
        members[member.label] = piece.values
        directions.append(piece.arrays["mean"])
        if "draws" in piece.arrays:
            arrays[f"draws-{update}-{member.label}"] = piece.arrays["draws"]
    values = {
        "update": update,
        "exact": {
            "loss": exact.loss,
            "norm": finite(np.linalg.norm(true)),
            "data_variance": spread(means, true),
            "moved": exact.moved,
        },
        "members": members,
        "alignment": {
            "labels": ["exact", *members],
            "cosine": [
                [align_vectors(a, b)["cosine"] for b in directions] for a in directions
            ],
        },
    }
    return values, arrays


def _measure_member(
    bench: Bench, stand: Stand, exact: Exact, member: Member, kept: int
) -> Part:
    """Returns a member's figures at a snapshot, its mean gradient and raw draws."""
    runner = bench.runners[member.label]
    count, draws = bench.count_draws(runner, bench.windows[0]), []
    may_draw = bench.may_draw(runner, bench.windows[0])
    for number, window in enumerate(bench.windows):
        bench.problem.progress(f"{member.label}: window {number + 1}")
        gradients = (
            each.gradient
            for each in runner([stand.params], window, bench.keys(number, count))
        )
        made = collect(gradients, exact.frozen[number], kept)
        if count > 1 and number == 0 and made.are_one:
            made, count, may_draw = made.first(), 1, False
        draws.append(made)
    arrays = {"mean": np.mean([each.mean for each in draws], axis=0)}
    if kept:
        arrays["draws"] = np.stack([each.kept for each in draws])
    traits = runner.estimator.traits
    values = {
        "kind": traits.kind,
        "online_form": traits.online,
        "draws": may_draw,
        "num_draws": count,
        "frozen": measure_bias(draws, exact.frozen, bench.blocks, may_draw=may_draw),
        "online": {"cosine": None, "norm_ratio": None},
    }
    if traits.online:
        values["online"] = _measure_online(bench, stand, exact, runner, count)
    return Part(values, arrays)


def _measure_online(
    bench: Bench, stand: Stand, exact: Exact, runner: Runner, count: int
) -> dict[str, float | None]:
    """Returns cosine and norm ratio with the weights moving."""
    assert exact.online is not None
    means = []
    for number, window in enumerate(bench.windows):
        bench.problem.progress(f"online: window {number + 1}")
        made = runner(stand.paths[number], window, bench.keys(number, count))
        gradients = (each.gradient for each in made)
        means.append(collect(gradients, exact.online[number]).mean)
    return align_vectors(np.mean(means, axis=0), exact.online.mean(axis=(0, 1)))


def _measure_reach(bench: Bench, members: dict[str, Any]) -> dict[str, Any]:
    """Returns cosine, norm ratio and noise floor by lag, at the last snapshot.

    Args:
      bench: what is measured with.
      members: figures of that snapshot, by label; they say who draws.
    """
    problem, snapshot = bench.problem, bench.problem.snapshots[-1]
    params, window = as_dtype(snapshot.params, DTYPE), bench.windows[0]
    last = window.num_steps - 1
    lags = sorted({0, last, *(2**n for n in range(last.bit_length()))})
    windows = [window.reach_back(lag) for lag in lags]
    noises = bench.count_draws(bench.exact, window.as_one())

    def draw(runner: Runner, window: Window, count: int) -> Iterator[np.ndarray]:
        made = runner([params], window, bench.keys(0, count))
        return (each.gradient for each in made)

    @functools.cache
    def exact() -> list[np.ndarray]:
        return [
            np.array(list(draw(bench.exact, each.as_one(), noises))) for each in windows
        ]

    def run(label: str) -> Part:
        found, member = [], members[label]
        for each, true, lag in zip(windows, exact(), lags, strict=True):
            problem.progress(f"{label}: {lag} steps back")
            made = draw(bench.runners[label], each, member["num_draws"])
            draws, may_draw = [collect(made, true)], member["draws"]
            found.append(measure_bias(draws, true[None], {}, may_draw=may_draw))
        figures = "cosine", "norm_ratio", "noise_floor"
        return Part({name: [each[name] for each in found] for name in figures})

    return {
        "update": snapshot.update,
        "lags": lags,
        "members": {
            label: problem.keep(f"{label} by lag", functools.partial(run, label)).values
            for label in bench.runners
        },
    }
