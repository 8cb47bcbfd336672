"""Bias, variance and reach, beside gradients of a loop and sums by hand."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxlstm.estimators import GradientEstimator, Segment, Traits, rtrl
from jaxlstm.lab import Source
from jaxlstm.lab.comparison import bench
from jaxlstm.lab.comparison.accuracy import measure
from jaxlstm.lab.comparison.gradients import collect, measure_bias
from jaxlstm.lab.comparison.problem import Member, Problem, Snapshot, as_dtype
from jaxlstm.lab.comparison.windows import Reference, Window, read_window
from jaxlstm.lab.config import load_config
from jaxlstm.lab.experiment import build
from tests.estimators.problems import loop_loss
from tests.helpers import assert_close, draw_like, jit
from tests.lab import tiny

HERE = "tests.lab.comparison.test_accuracy"
SIGMA = 0.3
NOTHING = {"cosine": None, "norm_ratio": None}


class NoisyState(NamedTuple):
    inner: Any
    key: Any
    count: Any


def noisy(model, loss_fn) -> GradientEstimator:
    """Adds noise of a known size to the exact gradient of each segment."""
    inner = rtrl(model, loss_fn)

    def init(params, batch_shape, key):
        return NoisyState(inner.init(params, batch_shape, key), key, jnp.int32(0))

    def estimate(params, state, segment):
        estimate, within = inner.estimate(params, state.inner, segment)
        flat, unravel = ravel_pytree(estimate.grads)
        key = jax.random.fold_in(state.key, state.count)
        flat = flat + SIGMA * jax.random.normal(key, flat.shape, flat.dtype)
        state = NoisyState(within, state.key, state.count + 1)
        return estimate._replace(grads=unravel(flat)), state

    traits = Traits("unbiased", segment_invariant=True, online=True)
    return GradientEstimator(init, estimate, traits)


def alike(model, loss_fn) -> GradientEstimator:
    """Draws what changes nothing."""
    inner = noisy(model, loss_fn)

    def estimate(params, state, segment):
        exact, _ = rtrl(model, loss_fn).estimate(params, state.inner, segment)
        noise, state = inner.estimate(params, state, segment)
        grads = jax.tree.map(lambda a, b: a + 0 * b, exact.grads, noise.grads)
        return noise._replace(grads=grads), state

    return GradientEstimator(inner.init, estimate, inner.traits)


class Ragged(tiny.Tiny):
    """Has a shorter segment after each longer one."""

    def split(self, name, *, batch_size, segment_length, seed):
        source = super().split(
            name, batch_size=batch_size, segment_length=segment_length, seed=seed
        )

        def segments(start, count):
            del count
            length = segment_length - start % 2
            return jax.tree.map(lambda x: x[:, :length], source.segments(start, 1))

        return Source(segments, source.num_segments)


def make_problem(config: Path, *members: str, **overrides: Any) -> Problem:
    given = {"model.dtype": '"float64"', **overrides}
    experiment = build(load_config(config, [f"{k}={v}" for k, v in given.items()]))
    shapes = jax.eval_shape(experiment.trainer.model.init, jax.random.key(0))
    params = as_dtype(draw_like(shapes, 3, 0.5), experiment.config.sections.model.dtype)
    named = tuple(Member(name.rpartition(":")[2], name, {}) for name in members)
    return Problem(experiment, named, (Snapshot(5, params),))


def flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])


def make_window(steps: int = 4, count: int = 3) -> Window:
    random = np.random.default_rng(0)
    return Window(
        tuple(
            Segment(
                random.normal(size=(steps, 2, 1)),
                random.normal(size=(steps, 2, 1)),
                np.ones((steps, 2), bool),
                np.zeros((steps, 2), bool),
                np.ones((steps, 2)),
            )
            for _ in range(count)
        )
    )


def test_a_loss_that_others_come_before():
    window = make_window()
    whole = window.whole
    # Of the second example the last two steps are not scored, or not there.
    whole.weights[11, 1], whole.mask[10, 1] = 0, False
    window = window.replace(mask=whole.mask, weights=whole.weights)
    found = window.reach_back(3).whole
    steps = np.arange(12)[:, None]
    last = np.array([11, 9])
    np.testing.assert_array_equal(found.weights, steps == last)
    np.testing.assert_array_equal(found.mask, whole.mask & (steps >= last - 3))
    np.testing.assert_array_equal(found.inputs, whole.inputs)
    nowhere = window.replace(weights=np.zeros((12, 2))).reach_back(3).whole
    assert not nowhere.weights.any()


def test_segments_of_one_shape_are_stacked():
    window = Window(make_window(4, 2).segments + make_window(3, 1).segments)
    assert [each.mask.shape for each in window.blocks()] == [(2, 4, 2), (1, 3, 2)]
    only = window.score_only(1).whole
    np.testing.assert_array_equal(only.weights[:, 0], [0] * 4 + [1] * 4 + [0] * 3)
    assert window.num_steps == 11


def test_controls_are_spread(config: Path):
    problem = make_problem(config)
    source = problem.experiment.source
    bare = Source(
        lambda start, count: source.segments(start, count)._replace(
            mask=None, weights=None, resets=np.eye(4)[None, 0]
        )
    )
    problem = problem._replace(experiment=problem.experiment._replace(source=bare))
    (segment,) = read_window(problem, 2, 1).segments
    assert segment.mask.all() and segment.weights.dtype == float
    np.testing.assert_array_equal(segment.weights, np.ones((4, 2)))
    np.testing.assert_array_equal(segment.resets, np.eye(4)[:, :1] * [1, 1])
    np.testing.assert_array_equal(segment.inputs, source.segments(2, 1).inputs[0])


def test_draws_are_summed_up():
    random = np.random.default_rng(0)
    draws, exact = 100 + random.normal(size=(6, 5)), random.normal(size=(6, 5))
    found = collect(draws, exact, kept=4)
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-13)
    # Of the difference, where each draw has an exact gradient of its own.
    expected = np.var(draws - exact, axis=0, ddof=1).sum()
    assert found.variance == pytest.approx(expected, rel=1e-12)
    assert found.count == 6 and found.kept.dtype == np.float32
    np.testing.assert_array_equal(found.kept, np.float32(draws[:4]))
    assert not found.are_one
    same = collect([draws[0]] * 6, exact[:1])
    assert same.are_one and same.first().count == 1
    assert not collect([np.zeros(5)] * 6, exact[:1]).are_one
    # Without an error, and yet not alike.
    assert not collect(draws, draws).are_one


def test_figures_of_draws():
    random = np.random.default_rng(1)
    exact, draws = random.normal(size=(3, 1, 5)), random.normal(size=(3, 8, 5))
    draws += np.arange(3)[:, None, None]
    blocks = {"first": np.arange(5) < 2, "rest": np.arange(5) >= 2}
    collected = [collect(d, g) for d, g in zip(draws, exact, strict=True)]
    found = measure_bias(collected, exact, blocks, may_draw=True)

    g, mean = exact.mean((0, 1)), draws.mean((0, 1))
    square, means = g @ g, draws.mean(1)
    bias = np.linalg.norm(mean - g) / np.sqrt(square)
    by_window = draws.var(axis=1, ddof=1).sum(-1)
    # The mean over 3 windows of the means of 8 draws.
    floor = np.sqrt(by_window.sum() / 8 / 9 / square)
    between = means.var(axis=0, ddof=1).sum() - by_window.mean() / 8
    expected = {
        "cosine": mean @ g / np.sqrt(square * (mean @ mean)),
        "norm_ratio": np.sqrt(mean @ mean / square),
        "relative_bias": bias,
        "noise_floor": floor,
        "debiased": np.sqrt(bias**2 - floor**2),
        "draw_variance": by_window.mean() / square,
        "data_variance": between / square,
    }
    assert list(found.pop("blocks")) == ["first", "rest"]
    assert found == pytest.approx(expected, rel=1e-12)


def test_figures_that_there_are_none_of():
    exact, one = np.zeros((1, 1, 2)), np.ones((1, 2))
    blocks = {"all": np.ones(2, bool)}
    found = measure_bias([collect(one, exact[0])], exact, blocks, may_draw=False)
    wanted = {
        **NOTHING,
        "relative_bias": None,
        "noise_floor": None,
        "debiased": None,
        "draw_variance": None,
        "data_variance": None,
        "blocks": {"all": NOTHING},
    }
    assert found == wanted
    true = np.ones((2, 1, 2))
    single = measure_bias([collect(one, one)] * 2, true, {}, may_draw=False)
    assert single["noise_floor"] is None and single["draw_variance"] == 0
    assert single["relative_bias"] == single["debiased"] == 0
    assert single["data_variance"] == 0
    spoilt = [collect(one * np.nan, one)] * 2
    broken = measure_bias(spoilt, true, {}, may_draw=False)
    assert broken["cosine"] is broken["relative_bias"] is broken["debiased"] is None


def test_one_draw_does_not_tell_its_noise():
    one, true = np.full((1, 2), 1.5), np.ones((2, 1, 2))
    draws = [collect(one, true[0]), collect(2 * one, true[1])]
    found = measure_bias(draws, true, {}, may_draw=True)
    assert found["relative_bias"] == pytest.approx(1.25)
    unknown = "noise_floor", "debiased", "draw_variance", "data_variance"
    assert {found[name] for name in unknown} == {None}
    still = measure_bias(draws, true, {}, may_draw=False)
    assert still["debiased"] == still["relative_bias"] == found["relative_bias"]
    assert still["data_variance"] == pytest.approx(0.5 * 1.5**2)


def test_variance_over_data_that_noise_hides():
    draws, true = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.ones((2, 1, 2))
    # The means of both windows are alike, and each has a variance of 1.
    found = measure_bias([collect(draws, true[0])] * 2, true, {}, may_draw=True)
    assert found["draw_variance"] == pytest.approx(1)
    assert found["data_variance"] is None
    apart = [collect(draws + shift, true[0]) for shift in (0.0, 4.0)]
    found = measure_bias(apart, true, {}, may_draw=True)
    # Of two entries each 8, less the 1 of the noise, over |g|^2 = 2.
    assert found["data_variance"] == pytest.approx((16 - 1) / 2)


@pytest.mark.slow
def test_gradients_are_those_of_a_loop(config: Path, x64: None):
    problem = make_problem(config, "rtrl", "bptt", f"{HERE}:noisy")
    (snapshot,) = problem.snapshots
    part = measure(problem, num_windows=2, segments_per_window=2, num_draws=16)
    (values,), model = part.values["snapshots"], problem.model()

    def gradient(params: Any, segment: Any) -> np.ndarray:
        loss = jax.grad(lambda params: loop_loss(model, params, segment)[0])
        return flat(jit(loss)(params))

    def walk(window: Window) -> list[Any]:
        """Moves the weights by Adam's first step, on the segment's own gradient."""
        first = window.segments[0]
        grads = jit(jax.grad(lambda p: loop_loss(model, p, first)[0]))(snapshot.params)
        total = np.sum(first.weights * first.mask)
        adam = optax.adam(0.05)
        updates, _ = adam.update(
            jax.tree.map(lambda g: g / total, grads), adam.init(snapshot.params)
        )
        return [snapshot.params, optax.apply_updates(snapshot.params, updates)]

    windows = [read_window(problem, n, 2) for n in range(2)]
    ends = [(flat(first), flat(last)) for first, last in map(walk, windows)]
    lengths = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in ends]
    assert values["exact"]["moved"] == pytest.approx(np.mean(lengths), rel=1e-10)
    exact = [gradient(snapshot.params, window.whole) for window in windows]
    assert_close(part.arrays["exact-5"], np.float32(exact), 1e-6)
    g = np.mean(exact, axis=0)
    assert values["exact"]["norm"] == pytest.approx(np.linalg.norm(g), rel=1e-12)
    spread = np.var(exact, axis=0, ddof=1).sum() / (g @ g)
    assert values["exact"]["data_variance"] == pytest.approx(spread, rel=1e-10)

    members = values["members"]
    still = members["rtrl"]["frozen"]
    assert still["relative_bias"] < 1e-12 and still["noise_floor"] is None
    assert still["draw_variance"] == 0
    assert still["data_variance"] == pytest.approx(spread, rel=1e-10)
    for figures in still["blocks"].values():
        assert figures == pytest.approx({"cosine": 1, "norm_ratio": 1}, abs=1e-12)
    assert members["rtrl"]["num_draws"] == 1 and not members["rtrl"]["draws"]
    assert members["bptt"]["online"] == NOTHING
    # Its segments do not pass the gradient on.
    assert members["bptt"]["frozen"]["cosine"] < 1 - 1e-4
    assert not members["bptt"]["online_form"] and members["rtrl"]["online_form"]

    # Online, with the state and the influence carried over the moving weights.
    estimator, sums = rtrl(model, problem.config.task.loss), []
    moved = []
    for window in windows:
        path = walk(window)
        moved.append(
            sum(
                gradient(params, window.score_only(n).whole)
                for n, params in enumerate(path)
            )
        )
        state, total = estimator.init(path[0], (2,), jax.random.key(0)), 0.0
        for params, segment in zip(path, window.segments, strict=True):
            made, state = jit(estimator.estimate)(params, state, segment)
            total = total + flat(made.grads)
        sums.append(total)
    true, mean = np.mean(moved, axis=0), np.mean(sums, axis=0)
    lengths = np.linalg.norm(true), np.linalg.norm(mean)
    online = members["rtrl"]["online"]
    assert online["norm_ratio"] == pytest.approx(lengths[1] / lengths[0], rel=1e-10)
    cosine = true @ mean / lengths[0] / lengths[1]
    assert online["cosine"] == pytest.approx(cosine, rel=1e-10)
    assert cosine < 1 - 1e-8

    # Of 2 segments a window, each with noise on every parameter; its variance has a
    # standard error of sqrt(2 / (2 windows x 15 x 80)), 3 %.
    noise = members["noisy"]
    assert noise["num_draws"] == 16 and noise["draws"]
    expected = 2 * SIGMA**2 * len(g) / (g @ g)
    assert noise["frozen"]["draw_variance"] == pytest.approx(expected, rel=0.15)
    floor = np.sqrt(noise["frozen"]["draw_variance"] / 32)
    assert noise["frozen"]["noise_floor"] == pytest.approx(floor, rel=1e-10)
    assert noise["frozen"]["relative_bias"] < 1.5 * floor
    draws = part.arrays["draws-5-noisy"]
    assert draws.shape == (2, 16, len(g)) and draws.dtype == np.float32
    bias = np.linalg.norm(draws.mean((0, 1)) - g) / np.linalg.norm(g)
    assert noise["frozen"]["relative_bias"] == pytest.approx(bias, rel=1e-4)

    labels, cosines = values["alignment"].values()
    assert labels == ["exact", "rtrl", "bptt", "noisy"]
    assert np.allclose(np.diag(cosines), 1) and np.allclose(
        cosines, np.transpose(cosines)
    )
    assert cosines[0][2] == pytest.approx(members["bptt"]["frozen"]["cosine"])


@pytest.mark.slow
def test_weights_move_at_the_rate_of_their_update(config: Path):
    schedule = {"optimizer.schedule": '{ name = "cosine" }'}
    problem = make_problem(config, **schedule, **{"model.dtype": '"float32"'})
    (snapshot,), reference = problem.snapshots, Reference(problem)
    segments = read_window(problem, 0, 2).segments
    moved = []
    for update in (0, 9, 12):
        first, second = reference.walk(snapshot._replace(update=update), segments)
        assert first is snapshot.params
        moved.append(np.max(np.abs(flat(second) - flat(first))))
    # Adam's first step is as long as the learning rate. It is zero at the end, where
    # the weights go at the rates of the last two updates.
    rates = [0.05 * (1 + np.cos(np.pi * update / 12)) / 2 for update in (0, 9, 10)]
    np.testing.assert_allclose(moved, rates, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_reach_by_lag(config: Path, x64: None):
    problem = make_problem(config, "rtrl", "bptt", **{"model.hidden_size": 2})
    part = measure(problem, num_windows=1, segments_per_window=2, num_draws=4)
    reach, model = part.values["reach"], problem.model()
    assert reach["update"] == 5 and reach["lags"] == [0, 1, 2, 4, 7]
    assert reach["members"]["rtrl"] == {
        "cosine": pytest.approx([1] * 5, abs=1e-12),
        "norm_ratio": pytest.approx([1] * 5, abs=1e-12),
        "noise_floor": [None] * 5,
    }
    # Tiny scores the last step of each segment. Of a lag of 4 bptt sees 3 steps.
    window = read_window(problem, 0, 2)
    cut = reach["members"]["bptt"]["cosine"]
    assert cut[:3] == pytest.approx([1] * 3, abs=1e-12) and cut[3] < 1 - 1e-6
    whole, segment = window.reach_back(4).whole, window.reach_back(4).segments[1]
    params = problem.snapshots[0].params
    found = jit(lambda p: jax.grad(lambda p: loop_loss(model, p, whole)[0])(p))(params)
    _, hidden = loop_loss(model, params, window.reach_back(4).segments[0])
    seen = jit(
        lambda p: jax.grad(lambda p: loop_loss(model, p, segment, hidden)[0])(p)
    )(params)
    a, b = flat(found), flat(seen)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert cut[3] == pytest.approx(expected, rel=1e-10)


@pytest.mark.slow
def test_noise_of_the_model_is_not_an_error(config: Path, x64: None):
    options = {"model.num_layers": 2, "model.dropout": 0.5}
    problem = make_problem(config, "bptt", **options)
    part = measure(problem, num_windows=2, segments_per_window=1, num_draws=3)
    found = part.values["snapshots"][0]["members"]["bptt"]
    assert found["num_draws"] == 3
    assert found["frozen"]["relative_bias"] < 1e-12
    assert found["frozen"]["draw_variance"] < 1e-24
    draws = part.arrays["draws-5-bptt"]
    assert not np.array_equal(draws[:, 0], draws[:, 1])
    assert_close(part.arrays["exact-5"], draws.mean(axis=1), 1e-6)


@pytest.mark.slow
def test_segments_of_other_lengths(config: Path, x64: None):
    use = {"task.use": f'"{HERE}:Ragged"', "train.updates_per_call": 1}
    problem = make_problem(config, "rtrl", **use)
    part = measure(problem, num_windows=1, segments_per_window=3, num_draws=1)
    (values,) = part.values["snapshots"]
    assert values["members"]["rtrl"]["frozen"]["relative_bias"] < 1e-12
    assert values["members"]["rtrl"]["online"]["cosine"] < 1
    assert values["exact"]["data_variance"] is None
    assert part.values["reach"]["lags"] == [0, 1, 2, 4, 8, 10]


@pytest.mark.slow
def test_draws_that_are_alike_are_none(config: Path, x64: None):
    problem = make_problem(config, f"{HERE}:alike", f"{HERE}:noisy")
    options = {"num_windows": 1, "segments_per_window": 1}
    many = measure(problem, num_draws=3, **options).values["snapshots"][0]["members"]
    assert (many["alike"]["draws"], many["alike"]["num_draws"]) == (False, 1)
    assert many["alike"]["frozen"]["debiased"] < 1e-12
    one = measure(problem, num_draws=1, **options).values["snapshots"][0]["members"]
    assert one["noisy"]["draws"] and one["noisy"]["frozen"]["debiased"] is None


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_pieces_are_kept_and_draws_are_bounded(
    config: Path, monkeypatch: pytest.MonkeyPatch
):
    kept, asked = {}, []

    def keep(name, measure):
        asked.append(name)
        if name not in kept:
            kept[name] = measure()
        return kept[name]

    def stop(text: str) -> None:
        if text == "bptt: window 1":
            raise Stopped

    problem = make_problem(
        config, f"{HERE}:noisy", "bptt", **{"model.dtype": '"float32"'}
    )._replace(keep=keep)
    options = {"num_windows": 1, "segments_per_window": 1, "num_draws": 5}
    size = 4 * len(flat(problem.snapshots[0].params))
    # The exact gradient, that of bptt, and three draws.
    monkeypatch.setattr(bench, "MOST_BYTES", 5 * size + 1)
    with pytest.raises(Stopped):
        measure(problem._replace(progress=stop), **options)
    assert list(kept) == ["exact at update 5", "noisy at update 5"]
    part = measure(problem, **options)
    assert part.values["num_kept_draws"] == 3
    assert part.arrays["draws-5-noisy"].shape == (1, 3, size // 4)
    assert part.arrays["draws-5-bptt"].shape == (1, 1, size // 4)
    assert sum(array.nbytes for array in part.arrays.values()) == 5 * size
    assert part.values["snapshots"][0]["members"]["noisy"]["num_draws"] == 5
    assert asked[-2:] == ["noisy by lag", "bptt by lag"]
