"""The check of a gradient estimator: sums, segments, resets, and its class."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.checks.draws import describe_direction, judge_mean, measure
from jaxlstm.checks.problem import Problem, make_problem, squared_error
from jaxlstm.checks.reference import Reference, make_reference
from jaxlstm.checks.report import (
    BOUNDS,
    Precision,
    Report,
    Row,
    compiled,
    differences,
    judge,
    precision,
    verdict,
)
from jaxlstm.estimators import Estimate, GradientEstimator, LossFn, Segment
from jaxlstm.model import Model
from jaxlstm.noise import fold_in, of_segment
from jaxlstm.types import PyTree


def check_estimator(
    estimator: GradientEstimator,
    model: Model,
    loss_fn: LossFn = squared_error,
    *,
    params: PyTree = None,
    inputs: Any = None,
    targets: Any = None,
    exact_loss: bool = True,
    num_draws: int = 4000,
    dtype: Precision = "float64",
    seed: int = 0,
) -> Report:
    """Checks a gradient estimator by identities, driven by what its traits promise.

    Whatever the class: shapes; the loss; masked steps do nothing, with NaN in them;
    weights scale; a reset cuts off the past; examples add up; the state is carried. If
    the traits say so, gradients of segments add up to that of the whole. An exact
    gradient is JAX's own through the steps, leaf by leaf. An unbiased one is so in the
    mean over draws, within five standard errors, which are reported: chance alone goes
    beyond about once in a million. Of a biased one, direction and size beside the exact
    one are reported and not judged. Sequences that are whole are scored at their last
    steps alone. Nothing is printed; `print(report)` shows a table.

    Args:
      estimator: made for this model and loss.
      model: the model, made by `make_model` or of one's own.
      loss_fn: `(prediction [..., Y], target [...]) -> loss of each example [...]`.
      params: of the model; by default what `model.init` draws, each entry moved a
        little at random, so that none is zero.
      inputs: [T, B, ...], T of 6 or more and B of 2 or more. By default 7 steps of 2
        sequences, drawn; a model of one's own needs them given.
      targets: [T, B, ...]; by default drawn, of the shape of the prediction.
      exact_loss: whether the loss is that of the parameters as they are. Not so for an
        estimator that perturbs them, such as `pes`.
      num_draws: N, of a random estimator.
      dtype: "float64", which is switched on for the check alone, or "float32", with
        bounds to match. Parameters and data are of this dtype.
      seed: of what is drawn.

    Returns:
      The report.

    Raises:
      OptionError: inputs are needed or too few, or an option is out of range.
    """
    with precision(dtype):
        traits = estimator.traits
        problem = make_problem(
            *(model, params, inputs, targets, dtype, seed),
            whole_sequences=traits.whole_sequences,
        )
        words = [
            traits.kind,
            "online" if traits.online else "backward or in segments",
            f"{'' if traits.segment_invariant else 'not '}segment-invariant",
        ]
        title = f"estimator: {', '.join(words)}; {dtype}"
        wrong = _find_misfits(estimator, problem)
        rows = [verdict("gradients like parameters; state kept, one for each", wrong)]
        if wrong:
            rows.append(Row("the rest", note="cannot be run before this is mended"))
        else:
            checks = Checks(estimator, model, loss_fn, problem, BOUNDS[dtype])
            rows += [
                *checks.loss(exact_loss),
                *checks.masks(),
                *checks.weights(),
                *checks.resets(),
                *checks.batch(),
                *checks.segments(exact_loss),
                *checks.gradient(num_draws),
            ]
    return Report(title, tuple(rows))


def _find_misfits(estimator: GradientEstimator, problem: Problem) -> list[str]:
    """Says what is wrong with structures, shapes and dtypes, without a computation."""
    batch_shape = problem.batch_shape

    def run(params: PyTree, segment: Segment) -> Any:
        state = estimator.init(params, batch_shape, jax.random.key(0))
        return state, estimator.estimate(params, state, segment)

    state, (estimate, after) = jax.eval_shape(run, problem.params, problem.segment)
    scalar: Any = jax.ShapeDtypeStruct((), jnp.result_type(float))
    expected = Estimate(scalar, problem.params, scalar)
    wrong = [f"estimate{text}" for text in differences(estimate, expected)]
    wrong += [f"state{text}" for text in differences(after, state)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.shape and leaf.shape[:1] != batch_shape:
            wrong.append(
                f"state{jax.tree_util.keystr(path)}: {list(leaf.shape)} does not lead "
                f"with the batch, {batch_shape}, and is no scalar"
            )
    return wrong


class Checks:
    """The identities of one estimator on one problem."""

    def __init__(
        self,
        estimator: GradientEstimator,
        model: Model,
        loss_fn: LossFn,
        problem: Problem,
        bound: float,
    ) -> None:
        self.estimator, self.model, self.loss_fn = estimator, model, loss_fn
        self.problem, self.bound = problem, bound
        self.segment, self.params = problem.segment, problem.params
        self.init = compiled(
            lambda params, key: estimator.init(params, problem.batch_shape, key)
        )
        self._estimate = compiled(estimator.estimate)
        self.state = self.init(self.params, jax.random.key(1))
        self.whole, self.after = self.run(self.state, self.segment)
        reference, self.gradient_fn = make_reference(
            model,
            loss_fn,
            problem.batch_shape,
            whole_sequences=estimator.traits.whole_sequences,
        )
        keys = getattr(self.state, "keys", None)
        if keys is not None:
            fold = fold_in if estimator.traits.whole_sequences else of_segment
            keys = fold(keys, 0)
        self.given = self.params, keys, self.segment
        self.reference: Reference = compiled(reference)(*self.given)

    def run(self, state: Any, segment: Segment) -> tuple[Estimate, Any]:
        """Makes an estimate."""
        return self._estimate(self.params, state, segment)

    def loss(self, exact: bool) -> Iterator[Row]:
        """Checks loss and weight against sums over steps."""
        if self.reference.by_step is not None:
            yield judge(
                "the model: unroll is step after step",
                self.reference.by_unroll,
                self.reference.by_step,
                self.bound,
            )
        row = judge(
            "loss: that of the steps",
            self.whole.loss,
            self.reference.loss,
            self.bound,
        )
        if not exact:
            note = "exact_loss=False: the weights are perturbed"
            row = row._replace(bound=None, passed=None, note=note)
        elif not row.passed:
            note = "an estimator that perturbs the weights sets exact_loss=False"
            row = row._replace(note=note)
        yield row
        total = np.sum(self.segment.weights * self.segment.mask)
        yield judge(
            "weight: sum over steps that are there",
            self.whole.weight,
            np.asarray(total),
            self.bound,
        )

    def masks(self) -> Iterator[Row]:
        """Checks that masked steps do nothing, whatever stands in them."""
        filled, _ = self.run(self.state, self.problem.filled)
        yield judge(
            "masked steps: what stands there, NaN or not",
            self.whole,
            filled,
            self.bound,
        )
        nothing = self.segment._replace(
            inputs=self.problem.hide(self.segment.inputs),
            mask=np.zeros_like(self.segment.mask),
            resets=np.zeros_like(self.segment.resets),
        )
        empty, _ = self.run(self.after, nothing)
        zeros = jax.tree.map(np.zeros_like, empty)
        yield judge("masked steps: a segment of them is zero", empty, zeros, self.bound)
        short = self.problem.cut(0, 3)
        mask = np.where(np.arange(len(self.segment.mask))[:, None] < 3, 1, 0)
        long, _ = self.run(
            self.state, self.segment._replace(mask=self.segment.mask * mask)
        )
        expected, _ = self.run(self.state, short)
        yield judge("masked steps: at the end of a segment", long, expected, self.bound)

    def weights(self) -> Iterator[Row]:
        """Checks that loss and gradient scale with the weights.

        They are so small that no bound on a gradient is met.
        """
        small, double = (
            self.run(
                self.state,
                self.segment._replace(weights=self.segment.weights * 2.0**power),
            )[0]
            for power in (-20, -19)
        )
        expected = jax.tree.map(lambda leaf: 2 * leaf, small)
        yield judge("weights scale loss and gradient", double, expected, self.bound)

    def resets(self) -> Iterator[Row]:
        """Checks that nothing flows over a reset.

        The same sequence stands behind a past that is not scored, and behind none.
        """
        steps = np.arange(len(self.segment.mask))[:, None]
        ones = np.ones_like(self.segment.mask)
        behind = self.problem.full._replace(
            mask=ones, resets=ones * (steps == 3), weights=ones * (steps >= 3)
        )
        alone = behind._replace(mask=behind.weights)
        estimate, _ = self.run(self.state, behind)
        expected, _ = self.run(self.state, alone)
        row = judge(
            "resets: the sequence after one, by itself", estimate, expected, self.bound
        )
        yield self._unless(self.model.step is None, row, "read backward as well")

    def batch(self) -> Iterator[Row]:
        """Checks examples one by one, and more axes of them."""

        def pick(tree: Any, n: int, axis: int) -> Any:
            return jax.tree.map(
                lambda leaf: leaf if not leaf.shape else leaf.take(n, axis=axis), tree
            )

        def pick_state(n: int) -> Any:
            return jax.tree.map(lambda x: x[n] if x.shape else x, self.state)

        singles = [
            self.run(pick_state(n), pick(self.segment, n, 1))[0]
            for n in range(self.problem.batch_shape[0])
        ]
        total = jax.tree.map(lambda *leaves: sum(leaves), *singles)
        yield judge("examples, one by one, add up", total, self.whole, self.bound)
        state = jax.tree.map(
            lambda x: x.reshape(-1, 1, *x.shape[1:]) if x.shape else x, self.state
        )
        segment = jax.tree.map(
            lambda x: x.reshape(*x.shape[:2], 1, *x.shape[2:]), self.segment
        )
        more, _ = self.run(state, segment)
        yield judge("batch axes (A, B)", more, self.whole, self.bound)
        plain: Any = Segment(*self.problem.full[:2])
        ones = np.ones_like(self.segment.mask)
        stated = Segment(plain.inputs, plain.targets, ones, 0 * ones, ones)
        estimate, _ = self.run(self.state, plain)
        expected, _ = self.run(self.state, stated)
        yield judge(
            "no mask, resets, weights: all there", estimate, expected, self.bound
        )

    def segments(self, exact_loss: bool) -> Iterator[Row]:
        """Checks that the state is carried from segment to segment."""
        state, found, length = self.state, [], len(self.segment.mask)
        for start, stop in ((0, 1), (1, 4), (4, length)):
            estimate, state = self.run(state, self.problem.cut(start, stop))
            found.append(estimate)
        total: Estimate = jax.tree.map(lambda *leaves: sum(leaves), *found)
        lengths = f"1, 3, {length - 4}"
        if exact_loss:
            row = judge(
                "segments: their losses add up",
                total.loss,
                self.whole.loss,
                self.bound,
                lengths,
            )
            apart = self.estimator.traits.whole_sequences
            yield self._unless(apart, row, "sequences are whole")
        row = judge(
            "segments: their gradients add up",
            total.grads,
            self.whole.grads,
            self.bound,
            lengths,
        )
        invariant = self.estimator.traits.segment_invariant
        yield self._unless(not invariant, row, "not promised")

    @staticmethod
    def _unless(condition: bool, row: Row, note: str) -> Row:
        """Returns a row that is not judged where a condition holds."""
        return row._replace(bound=None, passed=None, note=note) if condition else row

    def gradient(self, num_draws: int) -> Iterator[Row]:
        """Checks the gradient against that of `bptt`, as its class demands."""
        kind = self.estimator.traits.kind
        if kind == "exact":
            expected = compiled(self.gradient_fn)(*self.given)
            yield judge(
                "gradient: backward through the steps",
                self.whole.grads,
                expected,
                self.bound,
            )
            return
        other, _ = self.run(self.init(self.params, jax.random.key(2)), self.segment)
        random = any(
            np.any(np.asarray(a) != np.asarray(b))
            for a, b in zip(
                jax.tree.leaves(self.whole.grads),
                jax.tree.leaves(other.grads),
                strict=True,
            )
        )
        count = num_draws if random else 1
        moments = measure(self.estimator, self.gradient_fn, self.problem, count)
        if kind == "unbiased":
            yield from judge_mean(moments, count, self.bound)
        else:
            yield describe_direction(moments, count)
