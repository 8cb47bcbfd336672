"""The Add task: its stream, and that its floors are those of the definition."""

import itertools

import numpy as np
import pytest

from experiments.add import EVALUATED_STEPS, Add
from jaxlstm.lab import load_run
from jaxlstm.lab.commands import main
from tests.experiments.streams import check_stream, count_scored, join, read
from tests.experiments.test_sine_cosine import ROOT


def cross_entropy(target, probability):
    """Returns nats [...] of predicting a probability strictly within 0 and 1."""
    return -(target * np.log(probability) + (1 - target) * np.log1p(-probability))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_stream_is_the_same_however_it_is_cut(split):
    check_stream(Add(), split)


@pytest.mark.parametrize(
    "options", [{}, {"lags": [3, 1, 17], "weights": [-0.3, 0.25, 0.125]}]
)
def test_targets_follow_the_definition_across_segments(options):
    task = Add(**options)
    stream = join(read(task, count=20, length=7))
    bits, y = stream.inputs[..., 0].astype(float), stream.targets[..., 0]
    assert set(np.unique(bits)) == {0, 1}
    np.testing.assert_array_equal(stream.inputs.sum(-1), 1)
    np.testing.assert_allclose(stream.targets.sum(-1), 1, atol=1e-7)
    for t in range(max(task.lags), len(bits)):
        expected = 0.5
        for lag, weight in zip(task.lags, task.weights, strict=True):
            expected = expected + weight * bits[t - lag]
        np.testing.assert_allclose(y[t], expected, atol=1e-7)


def test_bits_before_the_stream_are_drawn_too():
    y = np.concatenate(
        [read(Add(), seed=seed, length=9).targets[0, ..., 0] for seed in range(8)]
    )
    assert set(np.unique(y)) == {0.25, 0.5, 0.75, 1}


def test_wide_streams_are_the_same_however_they_are_cut():
    # A step takes more than the generator makes at once.
    whole = join(read(Add(), count=4, batch_size=600))
    late = join(read(Add(), start=2, count=2, batch_size=600))
    np.testing.assert_array_equal(late.inputs, whole.inputs[24:])


def test_rows_are_fair_and_independent():
    # More rows than one step of the generator has bits.
    bits = join(read(Add(), count=1, length=400, batch_size=300)).inputs[..., 0]
    signs = 2 * bits.astype(float) - 1
    products = signs.T @ signs / len(signs)
    # 45,000 correlations with a standard error of .05: chance takes one past 6 of
    # them about once in 10,000 seeds; a row drawn twice gives 1.
    np.fill_diagonal(products, 0)
    assert np.abs(products).max() < 0.3
    # 120,000 bits: the standard error is .0014.
    assert abs(bits.mean() - 0.5) < 0.007


def test_floors_are_those_of_all_histories():
    """Averages over all bits of the window, with what is not known left out."""
    histories = np.array(list(itertools.product((0, 1), repeat=10)))
    near, far = histories[:, 5], histories[:, 9]
    y = 0.5 + 0.5 * near - 0.25 * far
    floors = []
    for known in ([], [near], [near, far]):
        groups = np.array([2**n * bits for n, bits in enumerate(known)]).sum(axis=0)
        groups = np.broadcast_to(groups, y.shape)
        best = np.array([y[groups == group].mean() for group in groups])
        best = best.clip(1e-12, 1 - 1e-12)
        floors.append(cross_entropy(y, best).mean())
    np.testing.assert_allclose(floors, [0.6616, 0.5192, 0.4545], atol=5e-5)
    found = Add().references()
    np.testing.assert_allclose([r.loss for r in found], floors, rtol=1e-9)
    assert [r.label for r in found] == [
        "lags known: none",
        "lags known: 5",
        "lags known: 5+9",
    ]


def test_loss_of_the_best_predictions_is_the_floor():
    task = Add()
    stream = join(read(task, "test", count=40, length=100, batch_size=8))
    best = stream.targets.clip(1e-6, 1 - 1e-6)
    losses = np.asarray(task.loss(np.log(best), stream.targets))
    np.testing.assert_allclose(
        losses, cross_entropy(stream.targets[..., 0], best[..., 0]), atol=1e-5
    )
    # 32,000 losses of a standard deviation of .27: five standard errors.
    assert abs(losses.mean() - task.references()[-1].loss) < 0.0075


def test_evaluation_scores_what_can_be_known():
    task = Add(lags=[2, 30], weights=[0.25, 0.25])
    assert read(task).weights is None
    weights = join(read(task, "validation", count=5)).weights
    np.testing.assert_array_equal(weights, np.arange(60) >= 30)
    assert EVALUATED_STEPS <= count_scored(task) < EVALUATED_STEPS + 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [0.5]}, "is not one for each of lags"),
        ({"weights": [0.5, 0.25]}, "y goes from 0.5 to 1.25"),
        ({"weights": [0.5, -0.75]}, "y goes from -0.25 to 1"),
        ({"lags": [5, 5]}, "names a lag twice"),
        ({"lags": [0, 5]}, "greater than or equal to 1"),
        ({"lags": [], "weights": []}, "at least 1 item"),
    ],
)
def test_bad_fields_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Add(**options)


def test_weights_may_use_all_of_the_range():
    assert len(Add(lags=[1, 2, 3], weights=[0.1, 0.2, 0.2]).references()) == 4


@pytest.mark.slow
def test_both_lags_are_learnt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["train.num_updates=400", "model.hidden_size=16", "train.eval_every="]
    main(["run", str(ROOT / "configs/add.toml"), "--out", "out", *overrides])
    (test,) = (line for line in load_run("out").metrics if line["split"] == "test")
    # To know the first lag alone is worth .5192.
    assert 0.45 < test["loss"] < 0.5
    assert (tmp_path / "out/plots/prediction.png").is_file()
