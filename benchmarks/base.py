"""What a benchmark is: contestants that do the same work, each in its own process."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Size = Mapping[str, int]


class Work(NamedTuple):
    """A quantity, ready to be computed again and again.

    Attributes:
      run: computes it once, and waits until it is there.
      outputs: arrays by name, of what `run` returned. Those of the first run are
        compared with the other contestants'.
      units: how many units (calls, updates) one run makes.
    """

    run: Callable[[], Any]
    outputs: Callable[[Any], Mapping[str, np.ndarray]]
    units: int = 1


class Prepared(NamedTuple):
    """A contestant that is ready.

    Attributes:
      works: by quantity; those of the benchmark that the contestant can compute.
      device: what they run on, in words.
    """

    works: Mapping[str, Work]
    device: str


class Need(NamedTuple):
    """A distribution that a contestant imports, and the extra that installs it."""

    package: str
    extra: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way of doing the work.

    Attributes:
      name: as the table shows it.
      use: import path `package.module:function` of `(size, **options) -> Prepared`. It
        is imported in the contestant's own process only.
      options: of that function.
      needs: what it imports beyond the library.
      targets: by quantity, how many times as fast as the benchmark's baseline it
        should be, at the benchmark's first size.
    """

    name: str
    use: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Contestants that do the same work.

    Attributes:
      name: as the command line takes it.
      summary: what is computed.
      unit: what one time is of.
      sizes: by name; the first is the default.
      quantities: what is timed, in the table's order.
      contestants: in the order in which they take turns. The outputs of the first one
        that is installed are what the others' are compared with.
      baseline: name of the contestant that speeds are relative to.
      tolerance: the most by which outputs may differ, in units of the largest entry
        of each array.
    """

    name: str
    summary: str
    unit: str
    sizes: Mapping[str, Size]
    quantities: tuple[str, ...]
    contestants: tuple[Contestant, ...]
    baseline: str
    tolerance: float

    @property
    def default_size(self) -> Size:
        """The first of the sizes."""
        return next(iter(self.sizes.values()))
