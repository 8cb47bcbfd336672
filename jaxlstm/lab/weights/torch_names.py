"""Names of PyTorch's tensors: which prefix stands before which part of a model."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxlstm.interop.weights import show
from jaxlstm.lab.errors import UserError, suggest

FIRST = "weight_ih_l0"
WEIGHT, BIAS = "weight", "bias"


class Prefixes(NamedTuple):
    """What stands before the names of each part.

    Attributes:
      lstm: of the recurrent layers.
      embedding: of the table of an embedding.
      linear: of the readout.
    """

    lstm: str = "lstm."
    embedding: str = "embedding."
    linear: str = "fc."


def parse_prefixes(words: Sequence[str]) -> dict[str, str]:
    """Returns the prefixes that a user has named, as PART=PREFIX each.

    Raises:
      UserError: a word is none of them, or names a part again.
    """
    given: dict[str, str] = {}
    for word in words:
        part, equals, prefix = word.partition("=")
        if not equals:
            raise UserError(
                f"--prefix {word}: write PART=PREFIX, such as lstm=rnn., of the parts "
                f"{', '.join(Prefixes._fields)}"
            )
        if part not in Prefixes._fields:
            raise UserError(
                f"--prefix {word}: no part; {suggest(part, Prefixes._fields)}"
            )
        if part in given:
            raise UserError(f"--prefix {word}: {part} is named twice; leave one")
        given[part] = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    return given


def find_prefixes(names: Iterable[str], given: dict[str, str], where: str) -> Prefixes:
    """Returns what stands before the names of each part.

    The recurrent layers are where a name ends in weight_ih_l0; of what is beside them,
    the readout has weight and bias, and an embedding weight alone. What is not there
    gets the name that it would have here, so that it is found missing.

    Args:
      names: of the tensors.
      given: by the user.
      where: the file, for errors.

    Raises:
      UserError: there are several of a part.
    """
    names = list(names)
    lstm = given.get("lstm")
    if lstm is None:
        there = [n.removesuffix(FIRST) for n in names if n.endswith(FIRST)]
        lstm = _only(there, Prefixes().lstm, "lstm", where)
    rest = {n for n in names if not (lstm and n.startswith(lstm))}
    bases = [n.removesuffix(WEIGHT) for n in sorted(rest) if n.endswith(f".{WEIGHT}")]
    candidates = {
        "embedding": [base for base in bases if base + BIAS not in rest],
        "linear": [base for base in bases if base + BIAS in rest],
    }
    found = {
        part: given[part]
        if part in given
        else _only(
            [base for base in bases if base not in given.values()],
            Prefixes()._asdict()[part],
            part,
            where,
        )
        for part, bases in candidates.items()
    }
    return Prefixes(lstm, **found)


def _only(found: list[str], default: str, part: str, where: str) -> str:
    if len(found) > 1:
        raise UserError(
            f"{where}: has {len(found)} parts that may be the {part}: "
            f"{', '.join(map(show, found))}; name one, as --prefix "
            f"{part}={show(found[0])}"
        )
    return found[0] if found else default
