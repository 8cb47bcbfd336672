"""The bag of words: what is found is a minimum, by a gradient that is one."""

import numpy as np
import pytest

from experiments.sentiment.baseline import (
    STRENGTHS,
    choose,
    find_words,
    fit,
    objective,
)
from experiments.sentiment.buckets import Encoded

V, K = 12, 3


def draw_texts(seed: int, count: int = 40) -> Encoded:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1, V, rng.integers(1, 9), np.int32) for _ in range(count)]
    # The label goes by the least word, but for some.
    labels = np.array([min(text) // 2 % K for text in texts], np.int32)
    labels[::7] = (labels[::7] + 1) % K
    return Encoded(texts, labels)


def test_words_are_found_once():
    words = find_words([np.array([3, 1, 3]), np.array([0])], 4).toarray()
    np.testing.assert_array_equal(words, [[0, 1, 0, 1], [1, 0, 0, 0]])


def test_gradient_is_that_of_the_objective():
    texts = draw_texts(0)
    words = find_words(texts.texts, V)
    flat = np.random.default_rng(1).normal(size=(V + 1) * K)
    size = 1e-5

    def value(flat):
        return objective(flat, words, texts.labels, K, 0.3)[0]

    steps = size * np.eye(len(flat))
    differences = [(value(flat + s) - value(flat - s)) / (2 * size) for s in steps]
    gradient = objective(flat, words, texts.labels, K, 0.3)[1]
    # The third derivative is below 1 here: an error of size squared, and rounding.
    np.testing.assert_allclose(gradient, differences, atol=1e-9, rtol=0)


@pytest.mark.parametrize("strength", STRENGTHS[1::3])
def test_the_fit_has_no_gradient(strength):
    texts = draw_texts(2)
    words = find_words(texts.texts, V)
    found = fit(words, texts.labels, K, strength)
    flat = np.concatenate([found.weights, found.bias[None]]).ravel()
    loss, gradient = objective(flat, words, texts.labels, K, strength)
    assert np.linalg.norm(gradient) < 1e-6
    assert loss < np.log(K)


def test_two_classes_are_a_logistic_regression():
    """One word, there in half of the texts: log odds are those that are counted."""
    texts = Encoded(
        [np.array([1]), np.array([1]), np.array([1]), *[np.array([0])] * 3],
        np.array([1, 1, 0, 0, 0, 1], np.int32),
    )
    words = find_words(texts.texts, 2)
    logits = fit(words, texts.labels, 2, 1e-9).predict(words)
    odds = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(odds, np.log([2] * 3 + [0.5] * 3), atol=1e-4)


@pytest.mark.slow
def test_the_strength_is_chosen_by_validation():
    train, validation = draw_texts(3), draw_texts(4, 30)
    strengths = 0.01, 0.1, 1.0
    chosen = choose(train, validation, num_words=V, num_classes=K, strengths=strengths)

    def right(strength):
        found = fit(find_words(train.texts, V), train.labels, K, strength)
        said = found.predict(find_words(validation.texts, V)).argmax(axis=1)
        return np.mean(said == validation.labels)

    shares = {strength: right(strength) for strength in strengths}
    best = max(shares.values())
    assert best > min(shares.values())
    assert chosen.strength == max(s for s in strengths if shares[s] == best)
