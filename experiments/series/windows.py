"""Windows of a series: which there are, what comes after each, and in which order."""

import functools
from typing import Any, NamedTuple

import numpy as np

from experiments.series.frame import fill_forward
from jaxlstm.lab import Segment, Source, generator

SPLITS = "train", "validation", "test"
# Forecasts without a net, beside the truth in the targets of evaluated splits.
LAST_VALUE, LAST_SEASON = "naive", "seasonal"


class Windows(NamedTuple):
    """A scaled series, and how it is cut.

    Attributes:
      inputs: [N, X] float32, NaN where one is missing.
      targets: [N, J] float32, NaN where one is missing.
      counts: how many rows each of `SPLITS` has; they follow one another.
      window: T, rows that are seen.
      horizon: rows that are forecast after them.
      season: rows after which the series is taken to repeat itself, or None.
    """

    inputs: np.ndarray
    targets: np.ndarray
    counts: tuple[int, int, int]
    window: int
    horizon: int
    season: int | None

    def find_ends(self, split: str) -> np.ndarray:
        """Returns the last row of each window whose whole horizon is in a split.

        A window of validation or test may begin in the split before: what is known
        when a forecast is made is seen, and only what is forecast is held out. Left out
        are windows that see nothing, or after which nothing is known.
        """
        number = SPLITS.index(split)
        begin = sum(self.counts[:number])
        first = max(begin, self.window) - 1
        ends = np.arange(first, begin + self.counts[number] - self.horizon)
        seen = _any_of_last(_present(self.inputs), self.window)
        known = _any_of_last(_present(self.targets), self.horizon)
        return ends[seen[ends] & known[ends + self.horizon]]

    def cut_inputs(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the windows [..., T, X] that end at rows [...], and masks [..., T].

        A step at which an input is missing is masked. Masked steps change nothing,
        wherever they stand; they are moved to the front, so that the last step is there
        and its prediction can be scored.
        """
        rows = ends[..., None] + np.arange(1 - self.window, 1)
        present = _present(self.inputs)[rows]
        order = np.argsort(present, axis=-1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=-1)
        mask = np.take_along_axis(present, order, axis=-1)
        return np.where(mask[..., None], self.inputs[rows], np.float32(0)), mask

    def cut_truth(self, ends: np.ndarray) -> np.ndarray:
        """Returns what comes after rows [...], [..., horizon, J].

        Where one of the targets is missing, all are NaN.
        """
        truth = self.targets[ends[..., None] + np.arange(1, self.horizon + 1)]
        return np.where(_present(truth)[..., None], truth, np.float32(np.nan))

    def forecast_naively(self, ends: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what needs no net, [..., horizon, J] each.

        They are the last value that is known and, with a season, the value of the last
        season at the same place in it.
        """
        known = fill_forward(self.targets)
        ahead = np.arange(1, self.horizon + 1)
        last = np.repeat(ends[..., None], self.horizon, axis=-1)
        found = {LAST_VALUE: known[last]}
        if self.season:
            seasons = -(-ahead // self.season)
            found[LAST_SEASON] = known[last + ahead - self.season * seasons]
        return found

    def make_source(self, split: str, *, batch_size: int, seed: int) -> Source:
        """Returns the windows of a split, each a whole sequence.

        Those of training come in another order in each epoch, all of them once; those
        of other splits come by time. The last batch is filled up with rows that are
        masked and have no weight.
        """
        ends = self.find_ends(split)
        per_epoch = -(-len(ends) // batch_size)
        training = split == "train"

        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            places = np.full(per_epoch * batch_size, -1)
            found = generator(seed, split, epoch).permutation(ends)
            places[: len(ends)] = found if training else ends
            return places.reshape(per_epoch, batch_size)

        def segments(start: int, count: int) -> Segment:
            numbers = range(start, start + count)
            chosen = [order(n // per_epoch)[n % per_epoch] for n in numbers]
            return self._assemble(np.stack(chosen), naive=not training)

        return Source(segments, per_epoch)

    def _assemble(self, places: np.ndarray, *, naive: bool) -> Segment:
        """Returns segments of windows that end at rows [count, B], -1 for none."""
        real = places >= 0
        ends = np.where(real, places, self.window - 1)
        inputs, mask = self.cut_inputs(ends)
        mask &= real[..., None]
        truth = self.cut_truth(ends)
        forecasts = [truth]
        if naive:
            forecasts += self.forecast_naively(ends).values()
        # [count, B, horizon J, K]
        targets = np.stack(forecasts, axis=-1).reshape(*ends.shape, -1, len(forecasts))
        count, batch_size = ends.shape
        last = np.arange(self.window)[:, None] == self.window - 1
        # What is known of the horizon weighs, so that all known values weigh alike.
        weights = last * (real * _present(truth).mean(axis=-1))[:, None]
        shape = count, self.window, batch_size
        resets = np.broadcast_to(np.arange(self.window)[:, None] == 0, shape)
        leaves: Any = (
            np.moveaxis(inputs, 1, 2),
            np.broadcast_to(targets[:, None], (*shape, *targets.shape[2:])),
            *(x.astype(np.float32) for x in (np.moveaxis(mask, 1, 2), resets, weights)),
        )
        return Segment(*leaves)


def _present(values: np.ndarray) -> np.ndarray:
    """Returns [..., N] of values [..., N, C]: whether none of them is missing."""
    return np.all(~np.isnan(values), axis=-1)


def _any_of_last(flags: np.ndarray, count: int) -> np.ndarray:
    """Returns [N] whether any of the last `count` flags up to here is set."""
    sums = np.concatenate([np.zeros(count, int), np.cumsum(flags)])
    return sums[count:] > sums[:-count]
