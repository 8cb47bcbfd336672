"""Bag of words: logistic regression on which words a text holds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.special

from experiments.sentiment.buckets import Encoded
from experiments.sentiment.corpus import Corpus, split_evenly

HELD_OUT = 0.2
STRENGTHS: tuple[float, ...] = tuple(float(x) for x in 10 ** np.arange(-4, -0.9, 0.5))


class Regression(NamedTuple):
    """A logistic regression.

    Attributes:
      weights: [V, K] of each word and class.
      bias: [K].
      strength: of the penalty.
    """

    weights: np.ndarray
    bias: np.ndarray
    strength: float

    def predict(self, words: scipy.sparse.csr_array) -> np.ndarray:
        """Returns the logits [N, K] of texts [N, V]."""
        return words @ self.weights + self.bias


def find_words(texts: Sequence[np.ndarray], size: int) -> scipy.sparse.csr_array:
    """Returns which of V words are in each text, [N, V] of 0 and 1."""
    found = [np.unique(text) for text in texts]
    starts = np.concatenate([[0], np.cumsum([len(words) for words in found])])
    numbers = np.concatenate(found)
    shape = len(texts), size
    return scipy.sparse.csr_array((np.ones(len(numbers)), numbers, starts), shape)


def objective(
    flat: np.ndarray,
    words: scipy.sparse.csr_array,
    labels: np.ndarray,
    num_classes: int,
    strength: float,
) -> tuple[float, np.ndarray]:
    """Returns what is minimised, and its gradient.

        mean over texts of -log softmax(x W + b)[label]  +  strength / 2 |W|^2

    Args:
      flat: [(V + 1) K] W, and b below it.
      words: [N, V] x.
      labels: [N].
      num_classes: K.
      strength: of the penalty; the bias is free of it.
    """
    both = flat.reshape(-1, num_classes)
    weights, bias = both[:-1], both[-1]
    logits = words @ weights + bias
    log_shares = scipy.special.log_softmax(logits, axis=1)
    rows, count = np.arange(len(labels)), len(labels)
    loss = -log_shares[rows, labels].mean() + strength / 2 * np.sum(weights**2)
    delta = np.exp(log_shares)
    delta[rows, labels] -= 1
    delta /= count
    gradient = np.concatenate(
        [words.T @ delta + strength * weights, delta.sum(axis=0, keepdims=True)]
    )
    return float(loss), gradient.ravel()


def fit(
    words: scipy.sparse.csr_array,
    labels: np.ndarray,
    num_classes: int,
    strength: float,
    start: Regression | None = None,
) -> Regression:
    """Fits a regression to all texts at once, by L-BFGS.

    Args:
      words: [N, V].
      labels: [N].
      num_classes: K.
      strength: of the penalty.
      start: where the search begins; by default at 0.
    """
    _, num_words = words.shape  # pyright: ignore[reportGeneralTypeIssues]
    flat = np.zeros((num_words + 1) * num_classes)
    if start is not None:
        flat = np.concatenate([start.weights, start.bias[None]]).ravel()
    found = scipy.optimize.minimize(
        objective,
        flat,
        (words, labels, num_classes, strength),
        method="L-BFGS-B",
        jac=True,
        options={"gtol": 1e-7, "ftol": 0, "maxiter": 2000, "maxfun": 4000},
    )
    both = found.x.reshape(-1, num_classes)
    return Regression(both[:-1], both[-1], strength)


def choose(
    train: Encoded,
    validation: Encoded,
    *,
    num_words: int,
    num_classes: int,
    strengths: Sequence[float] = STRENGTHS,
) -> Regression:
    """Fits regressions of several strengths, and returns what validates best.

    Of equal ones the one with the strongest penalty is taken.

    Args:
      train: what they are fitted to.
      validation: on which the strength is chosen, by the share that is right.
      num_words: V.
      num_classes: K.
      strengths: ascending.
    """
    words = find_words(train.texts, num_words)
    held_out = find_words(validation.texts, num_words)
    fitted, best, most = None, None, -1.0
    for strength in reversed(strengths):
        # The one before is near.
        fitted = fit(words, train.labels, num_classes, strength, fitted)
        right = fitted.predict(held_out).argmax(axis=1) == validation.labels
        if np.mean(right) > most:
            best, most = fitted, float(np.mean(right))
    assert best is not None
    return best


class BagOfWords:
    """A regression on a corpus, with its strength chosen on the validation part.

    Without one, a fifth of the texts that train is held out for the choice.
    """

    def __init__(self, corpus: Corpus, random: np.random.Generator):
        self._corpus = corpus
        train, held_out = corpus.encoded["train"], corpus.encoded.get("validation")
        if held_out is None:
            rows = split_evenly(train.labels, [HELD_OUT], random)
            kept, held_out = (train.take(part) for part in rows)
            # Where so few are left, the strength goes by what it is fitted to.
            train, held_out = (kept, held_out) if held_out.texts else (train, train)
        self.regression = choose(
            train,
            held_out,
            num_words=len(corpus.vocabulary),
            num_classes=len(corpus.classes),
        )

    def say(self, split: str) -> np.ndarray:
        """Returns the classes [N] of the texts of a split, as it sees them."""
        corpus = self._corpus
        words = find_words(corpus.encoded[split].texts, len(corpus.vocabulary))
        return self.regression.predict(words).argmax(axis=1)

    def measure(self, split: str) -> float:
        """Returns the accuracy on a split."""
        return float(np.mean(self.say(split) == self._corpus.encoded[split].labels))
