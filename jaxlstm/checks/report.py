"""What a check returns: identities, the errors they hold to, and a table of them."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxlstm.shapes import check_choice
from jaxlstm.types import PyTree

Precision = Literal["float64", "float32"]

# Of identities between two ways of computing the same, on some ten steps of time.
BOUNDS: dict[str, float] = {"float64": 1e-11, "float32": 1e-4}

# Errors of a leaf are relative to its largest entry, or to this part of the tree's,
# where that is more: rounding in what cancels out is no error.
LEAST = 1e-3


class Row(NamedTuple):
    """An identity, and how far it holds.

    Attributes:
      identity: what ought to be equal, or to hold.
      error: the relative error that was measured; None where nothing was.
      bound: the largest error that passes; None where nothing is judged by it.
      passed: whether it holds; None where it is reported and not judged.
      note: what more there is to say, such as where the error is.
    """

    identity: str
    error: float | None = None
    bound: float | None = None
    passed: bool | None = None
    note: str = ""

    @property
    def digits(self) -> float | None:
        """To how many decimal digits it holds, at most 16."""
        if self.error is None or math.isnan(self.error):
            return None
        return max(0.0, 16.0 if self.error < 1e-16 else -math.log10(self.error))


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found. `str` makes a table of it.

    Attributes:
      title: what was checked, in which precision.
      rows: the identities.
    """

    title: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether no identity fails."""
        return all(row.passed is not False for row in self.rows)

    def __getitem__(self, identity: str) -> Row:
        """Returns the row of an identity by its name."""
        return {row.identity: row for row in self.rows}[identity]

    def __str__(self) -> str:
        """Returns a table: a line an identity, and what was found in the last one."""
        header = ("identity", "error", "digits", "bound", "")
        lines = [header, *map(_cells, self.rows)]
        widths = [max(len(line[n]) for line in lines) for n in range(4)]
        table = [
            "  ".join(
                [
                    line[0].ljust(widths[0]),
                    *(line[n].rjust(widths[n]) for n in (1, 2, 3)),
                    line[4],
                ]
            ).rstrip()
            for line in lines
        ]
        failed = sum(row.passed is False for row in self.rows)
        judged = sum(row.passed is not None for row in self.rows)
        verdict = f"{judged - failed} of {judged} identities hold"
        return "\n".join([self.title, "", *table, "", verdict])


def _cells(row: Row) -> tuple[str, ...]:
    word = {True: "holds", False: "FAILS", None: "reported"}[row.passed]
    return (
        row.identity,
        "" if row.error is None else f"{row.error:.1e}",
        "" if row.digits is None else f"{row.digits:.1f}",
        "" if row.bound is None else f"{row.bound:.1e}",
        f"{word}: {row.note}" if row.note else word,
    )


def judge(
    identity: str, actual: PyTree, expected: PyTree, bound: float, note: str = ""
) -> Row:
    """Compares two trees leaf by leaf.

    Args:
      identity: the row's name.
      actual: the tree.
      expected: what it ought to be.
      bound: the largest relative error that passes.
      note: said where the identity holds; else it is said which leaf errs most.

    Returns:
      The row.
    """
    wrong = differences(actual, expected)
    if wrong:
        return Row(identity, None, bound, False, "; ".join(wrong))
    error, where = compare(actual, expected)
    passed = error <= bound
    if not passed and where:
        note = f"most at {where}"
    return Row(identity, error, bound, passed, note)


def compare(actual: PyTree, expected: PyTree) -> tuple[float, str]:
    """Returns the largest relative error of a leaf, and the leaf's path.

    NaN on either side is an error of NaN.
    """
    leaves = jax.tree_util.tree_leaves_with_path(expected)
    pairs = [
        (jax.tree_util.keystr(path), np.asarray(a, np.float64), np.asarray(e))
        for (path, e), a in zip(leaves, jax.tree.leaves(actual), strict=True)
    ]
    most = max((_largest(e) for _, _, e in pairs), default=0.0)
    worst, where = 0.0, ""
    for name, a, e in pairs:
        error, size = _largest(a - e), max(_largest(e), LEAST * most)
        relative = error / size if size else (0.0 if error == 0 else math.inf)
        if math.isnan(error) or math.isnan(size):
            return math.nan, name
        if relative > worst:
            worst, where = relative, name
    return worst, where


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x), initial=0.0))


def differences(actual: PyTree, expected: PyTree) -> list[str]:
    """Says where structures, shapes and dtypes of two trees differ."""
    if jax.tree.structure(actual) != jax.tree.structure(expected):
        return [f"{jax.tree.structure(actual)} is not {jax.tree.structure(expected)}"]
    leaves = jax.tree_util.tree_leaves_with_path(actual)
    return [
        f"{jax.tree_util.keystr(path) or 'it'}: {a.dtype}{list(a.shape)} is not "
        f"{e.dtype}{list(e.shape)}"
        for (path, a), e in zip(leaves, jax.tree.leaves(expected), strict=True)
        if a.shape != e.shape or a.dtype != e.dtype
    ]


def verdict(identity: str, wrong: list[str], note: str = "") -> Row:
    """Returns the row of what has no error to measure."""
    return Row(identity, passed=not wrong, note="; ".join(wrong) or note)


@contextlib.contextmanager
def precision(dtype: Precision) -> Iterator[None]:
    """Switches float64 on or off for a block.

    Raises:
      OptionError: the dtype is neither float64 nor float32.
    """
    check_choice("dtype", dtype, Precision)
    with jax.enable_x64(dtype == "float64"):  # type: ignore[operator]
        yield


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function for a few small calls: compiling is what takes long."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, compiler_options=options)


def cast(tree: PyTree, dtype: Precision) -> PyTree:
    """Gives all floating-point leaves a dtype."""

    def convert(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        return leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf

    return jax.tree.map(convert, tree)


def draw(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Draws normal values that float32 holds as well."""
    return random.normal(size=shape).astype(np.float32).astype(dtype)
