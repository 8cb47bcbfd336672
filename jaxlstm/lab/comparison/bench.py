"""What gradients are measured with: windows, runners, and the exact gradient."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxlstm.diagnostics.blocks import parameter_blocks
from jaxlstm.estimators import bptt
from jaxlstm.lab.comparison.gradients import DTYPE, Runner, finite
from jaxlstm.lab.comparison.problem import Part, Problem, Snapshot, as_dtype
from jaxlstm.lab.comparison.windows import Reference, Window, read_window
from jaxlstm.types import Key, PyTree

# Bytes of all raw draws together, above which fewer of them are kept.
MOST_BYTES = 64 * 2**20


class Bench:
    """What all members are measured with, at each snapshot.

    Attributes:
      problem: what is measured on.
      num_draws: gradients of a window by a member that draws.
      windows: of the training data.
      exact: runs the exact gradient, over windows of one segment.
      runners: of the members, by label.
      reference: moves the weights.
      blocks: by name, which entries [P] of a gradient are of it.
    """

    def __init__(
        self, problem: Problem, num_windows: int, num_segments: int, num_draws: int
    ):
        model, loss = problem.model(DTYPE), problem.config.task.loss
        size = problem.experiment.batch_size
        self.problem, self.num_draws = problem, num_draws
        self.windows = [
            read_window(problem, n, num_segments) for n in range(num_windows)
        ]
        self.exact = Runner(bptt(model, loss), size)
        self.runners = {
            member.label: Runner(problem.estimator(member, model), size)
            for member in problem.members
        }
        self.reference = Reference(problem)
        self.blocks = {
            name: np.concatenate([np.ravel(x) for x in jax.tree.leaves(masks)])
            for name, masks in parameter_blocks(model).items()
        }

    @property
    def any_online(self) -> bool:
        """Whether a member is measured with moving weights."""
        runners = self.runners.values()
        return any(runner.estimator.traits.online for runner in runners)

    def keys(self, number: int, count: int) -> Iterator[Key]:
        """Yields keys of draws on a window, which are the same for all members."""
        key = jax.random.fold_in(jax.random.key(0), number)
        return (jax.random.fold_in(key, n) for n in range(count))

    def may_draw(self, runner: Runner, window: Window) -> bool:
        """Returns False where each draw of a window is the same."""
        params = as_dtype(self.problem.snapshots[0].params, DTYPE)
        return runner.may_draw(params, window)

    def count_draws(self, runner: Runner, window: Window) -> int:
        """Returns how many draws there are to be of a window."""
        return self.num_draws if self.may_draw(runner, window) else 1

    def count_kept(self) -> int:
        """Returns how many raw draws of a window and member can be kept."""
        leaves = jax.tree.leaves(self.problem.snapshots[0].params)
        sets = len(self.windows) * len(self.problem.snapshots)
        size = 4 * sets * sum(leaf.size for leaf in leaves)
        counts = [
            self.count_draws(runner, self.windows[0])
            for runner in self.runners.values()
        ]
        # The exact gradient is kept too.
        left = MOST_BYTES - size * (1 + counts.count(1))
        many = len(counts) - counts.count(1)
        if not many:
            return self.num_draws if left >= 0 else 0
        return min(self.num_draws, max(0, left // (size * many)))


class Exact(NamedTuple):
    """The exact gradients at a snapshot.

    Attributes:
      frozen: [W, M, P] with the weights still. M is the number of draws where the model
        itself draws, and else 1.
      online: [W, M, P] with the weights moving, or None.
      loss: the mean over all that is scored.
      moved: how far the weights move over a window, in units of their norm, the mean
        over windows; None where no member is measured with moving weights.
    """

    frozen: np.ndarray
    online: np.ndarray | None
    loss: float | None
    moved: float | None


class Stand:
    """Where the weights stand at a snapshot, and where they go to from there."""

    def __init__(self, bench: Bench, snapshot: Snapshot):
        self._bench, self._snapshot = bench, snapshot
        self.params = as_dtype(snapshot.params, DTYPE)

    @functools.cached_property
    def paths(self) -> list[list[PyTree]]:
        """The parameters by window and segment, as training moves them."""
        bench, paths = self._bench, []
        # In the dtype of training, as the reference run is.
        dtype = bench.problem.config.sections.model.dtype
        with jax.enable_x64(dtype == DTYPE):
            for window in bench.windows:
                paths.append(bench.reference.walk(self._snapshot, window.segments))
        return as_dtype(paths, DTYPE)

    def find_exact(self) -> Exact:
        """Returns the exact gradients; kept where the comparison is stopped."""
        name = f"exact at update {self._snapshot.update}"
        piece = self._bench.problem.keep(name, self._measure_exact)
        arrays, values = piece.arrays, piece.values
        online = arrays.get("online")
        return Exact(arrays["frozen"], online, values["loss"], values["moved"])

    def _measure_exact(self) -> Part:
        bench, update = self._bench, self._snapshot.update
        frozen, online, losses = [], [], []
        count = bench.count_draws(bench.exact, bench.windows[0].as_one())
        for number, window in enumerate(bench.windows):
            bench.problem.progress(f"exact gradient at update {update}")
            keys = list(bench.keys(number, count))
            made = list(bench.exact([self.params], window.as_one(), keys))
            frozen.append([each.gradient for each in made])
            losses += [(each.loss, each.weight) for each in made]
            if not bench.any_online:
                continue
            terms = []
            for n, params in enumerate(self.paths[number]):
                scored = window.score_only(n).as_one()
                made = bench.exact([params], scored, keys)
                terms.append([each.gradient for each in made])
            online.append(np.sum(terms, axis=0))
        loss, weight = np.sum(losses, axis=0)
        values = {"loss": finite(loss / weight) if weight else 0.0, "moved": None}
        arrays = {"frozen": np.array(frozen)}
        if online:
            arrays["online"] = np.array(online)
            values["moved"] = finite(np.mean([_distance(path) for path in self.paths]))
        return Part(values, arrays)


def _distance(path: Sequence[PyTree]) -> float:
    """Returns how far apart the ends of a path are, in units of the first's norm."""
    first, last = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
        for params in (path[0], path[-1])
    )
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(last - first) / np.linalg.norm(first))
