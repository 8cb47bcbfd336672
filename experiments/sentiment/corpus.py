"""From labelled texts to numbers of words, split into parts."""

import collections
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.files import shorten
from experiments.sentiment.buckets import PADDING, UNKNOWN, CutEnd, Encoded
from experiments.sentiment.reading import Example
from experiments.sentiment.tokens import Tokenizer
from jaxlstm.lab import UserError
from jaxlstm.lab.vocabulary import UNKNOWN as UNKNOWN_SYMBOL
from jaxlstm.lab.vocabulary import Vocabulary

PADDING_SYMBOL = "<pad>"
SYMBOLS = PADDING_SYMBOL, UNKNOWN_SYMBOL
# So many classes are believed, however few the texts.
FEW_CLASSES = 4


class Corpus(NamedTuple):
    """Labelled texts as numbers.

    Attributes:
      classes: their names; a label is a place in it.
      vocabulary: of the texts that train.
      examples: the texts themselves, by split.
      encoded: their numbers, by split.
      counts: [V] how often each number is read in training.
      sha256: hash of all texts and labels.
    """

    classes: tuple[str, ...]
    vocabulary: Vocabulary
    examples: Mapping[str, Sequence[Example]]
    encoded: Mapping[str, Encoded]
    counts: np.ndarray
    sha256: str

    def cut(self, length: int, end: CutEnd) -> "Corpus":
        """Returns texts of a length at most; what is counted is that of whole ones."""
        encoded = {name: part.cut(length, end) for name, part in self.encoded.items()}
        return self._replace(encoded=encoded)

    def measure_unknown(self) -> dict[str, float]:
        """Returns the share of unknown words in the texts of each split."""
        return {
            name: float(np.mean(np.concatenate(part.texts) == UNKNOWN))
            for name, part in self.encoded.items()
        }


def find_classes(
    where: str,
    examples: Iterable[Example],
    given: Sequence[str] | None,
    advice: str = "another source",
) -> tuple[str, ...]:
    """Returns the names of the classes, numbers by their size and others by letters.

    Args:
      where: the key and value of the source, for errors.
      examples: that name them.
      given: the names, in place of those found.
      advice: what to set if what is found cannot be classes.

    Raises:
      UserError: there is one class alone, one that is not among those given, or nearly
        one a text.
    """
    examples = list(examples)
    found = {example.label for example in examples}
    if given is not None:
        check_labels(examples, given)
        missing = [name for name in given if name not in found]
        if missing:
            raise UserError(
                f"{where}: has no text of class {missing[0]!r}; add some, or leave it "
                "out of task.classes"
            )
        return tuple(given)
    if len(found) < 2:
        raise UserError(
            f"{where}: all texts are of one class, {found.pop()!r}: nothing is left to "
            "tell apart; add texts of another"
        )
    if len(found) > max(FEW_CLASSES, len(examples) / 2):
        raise UserError(
            f"{where}: has {len(found)} classes in {len(examples)} texts, such as "
            f"{shorten(examples[0].label)!r}; set {advice}, or name them in "
            "task.classes if they are right"
        )
    return tuple(sorted(found, key=_by_number))


def check_labels(examples: Iterable[Example], classes: Sequence[str]) -> None:
    """Raises UserError where a label is none of the classes."""
    for example in examples:
        if example.label not in classes:
            raise UserError(
                f"{example.where}: the label {shorten(example.label)!r} is out of "
                f"range: the classes are {', '.join(classes)}; mend it, or set "
                "task.classes"
            )


def _by_number(name: str) -> tuple[float, str]:
    try:
        number = float(name)
    except ValueError:
        number = np.inf
    # No number is in order with NaN.
    return number if np.isfinite(number) else np.inf, name


def split_evenly(
    labels: np.ndarray, fractions: Sequence[float], random: np.random.Generator
) -> list[np.ndarray]:
    """Splits texts so that every part has the same share of each class.

    Args:
      labels: [N] of the texts.
      fractions: of the parts but the first, which takes what is left.
      random: draws which texts a part takes.

    Returns:
      The numbers of the texts in each part, ascending.
    """
    parts: list[list[np.ndarray]] = [[] for _ in range(len(fractions) + 1)]
    for label in np.unique(labels):
        numbers = random.permutation(np.flatnonzero(labels == label))
        sizes = [round(len(numbers) * fraction) for fraction in fractions]
        ends = np.cumsum(sizes).tolist()
        *held_out, rest = np.split(numbers, ends)
        for part, taken in zip(parts, [rest, *held_out], strict=True):
            part.append(taken)
    return [np.sort(np.concatenate(part)) for part in parts]


def make_vocabulary(
    texts: Iterable[Sequence[str]], *, size: int, min_count: int
) -> Vocabulary:
    """Returns the most frequent words, after the padding and the unknown symbol.

    Args:
      texts: the words of each.
      size: the most symbols.
      min_count: how often a word has to be there.
    """
    counts = collections.Counter(word for text in texts for word in text)
    for symbol in SYMBOLS:
        counts.pop(symbol, None)
    ranked = sorted(
        (word for word, count in counts.items() if count >= min_count),
        key=lambda word: (-counts[word], word),
    )
    symbols = (*SYMBOLS, *ranked[: size - len(SYMBOLS)])
    return Vocabulary("words", symbols, UNKNOWN)


def encode(vocabulary: Vocabulary, words: Sequence[str]) -> np.ndarray:
    """Returns the numbers [n] of words, int32; none of them is padding."""
    numbers = vocabulary.encode(" ".join(words))
    return np.where(numbers == PADDING, np.int32(UNKNOWN), numbers)


def make_corpus(
    examples: Mapping[str, Sequence[Example]],
    classes: Sequence[str],
    tokenize: Tokenizer,
    *,
    vocabulary_size: int,
    min_count: int,
) -> Corpus:
    """Numbers the words of texts, with a vocabulary of those that train.

    Args:
      examples: by split, among them "train".
      classes: their names.
      tokenize: from a text to its words.
      vocabulary_size: the most symbols, padding and the unknown one included.
      min_count: how often a word has to be there.

    Raises:
      UserError: a text has no word, or the vocabulary has none.
    """
    words = {
        name: [_tokenize(tokenize, example) for example in part]
        for name, part in examples.items()
    }
    vocabulary = make_vocabulary(
        words["train"], size=vocabulary_size, min_count=min_count
    )
    if len(vocabulary) == len(SYMBOLS):
        raise UserError(
            f"[task] min_count = {min_count}: no word is there so often in the texts "
            "that train, and the vocabulary is empty; lower it"
        )
    number = {name: n for n, name in enumerate(classes)}
    encoded = {
        name: Encoded(
            [encode(vocabulary, text) for text in part],
            np.array([number[example.label] for example in examples[name]], np.int32),
        )
        for name, part in words.items()
    }
    counts = np.bincount(
        np.concatenate(encoded["train"].texts), minlength=len(vocabulary)
    )
    return Corpus(
        tuple(classes), vocabulary, examples, encoded, counts, _hash(examples)
    )


def _tokenize(tokenize: Callable[[str], list[str]], example: Example) -> list[str]:
    words = tokenize(example.text)
    if not words:
        raise UserError(f"{example.where}: the text has no word; remove it")
    return words


def _hash(examples: Mapping[str, Sequence[Example]]) -> str:
    digest = hashlib.sha256()
    for name, part in examples.items():
        for example in part:
            fields = name, example.label, example.text
            digest.update("\0".join(fields).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
