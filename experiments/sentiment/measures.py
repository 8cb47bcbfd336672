"""Accuracy, precision, recall and F1, from averages over texts."""

from collections.abc import Mapping, Sequence

import jax


def count_outcomes(
    prediction: jax.Array, target: jax.Array, classes: Sequence[str]
) -> dict[str, jax.Array]:
    """Returns what is averaged: whether a class is said, there, or both, [...] each.

    Of two classes the second one is counted, the positive.

    Args:
      prediction: [..., 1] the logit of the second of two classes, or [..., K].
      target: [...] numbers of classes.
      classes: their names.
    """
    dtype = prediction.dtype
    if prediction.shape[-1] == 1:
        said = (prediction[..., 0] > 0).astype(target.dtype)
    else:
        said = prediction.argmax(axis=-1)
    counted = {"accuracy": (said == target).astype(dtype)}
    for number in _counted(classes):
        name, found, there = classes[number], said == number, target == number
        counted[f"said_{name}"] = found.astype(dtype)
        counted[f"share_{name}"] = there.astype(dtype)
        counted[f"right_{name}"] = (found & there).astype(dtype)
    return counted


def derive_measures(
    averages: Mapping[str, float], classes: Sequence[str]
) -> dict[str, float]:
    """Returns precision, recall and F1, from the averages of `count_outcomes`.

        precision = rightly said / said     recall = rightly said / there
               F1 = 2 precision recall / (precision + recall)

    Of several classes each is the mean over classes; what would be 0 / 0 is 0.
    """
    if "accuracy" not in averages:
        return {}
    triples = []
    for number in _counted(classes):
        said, there, rightly = (
            averages[f"{word}_{classes[number]}"] for word in ("said", "share", "right")
        )
        ratios = (rightly, said), (rightly, there), (2 * rightly, said + there)
        triples.append([part / whole if whole else 0.0 for part, whole in ratios])
    names = "precision", "recall", "f1"
    means = [sum(values) / len(triples) for values in zip(*triples, strict=True)]
    return dict(zip(names, means, strict=True))


def _counted(classes: Sequence[str]) -> Sequence[int]:
    return [1] if len(classes) == 2 else range(len(classes))
