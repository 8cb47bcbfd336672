"""What every estimator of the table has to do, and what `score` does for them."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlstm.cells import make_gru
from jaxlstm.estimators import ESTIMATORS
from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.training import TrainState
from jaxlstm.model import make_model
from tests.estimators.problems import B, H, X, Y, make_segment, squared_error
from tests.helpers import draw_like, jit

# The interface, for every member of the table. Options that a factory needs stand here.
OPTIONS: dict[str, dict[str, Any]] = {
    "artbp": {"p": 0.3},
    "clipped_bptt": {"z": 0.5},
    "h_detach": {"p": 0.3},
    "tbptt": {"horizon": 3, "stride": 2},
    "pes": {"num_particles": 4, "sigma": 0.1},
}


@pytest.fixture(params=ESTIMATORS)
def member(request):
    """An estimator with parameters for it, in float32."""
    model = make_model(
        make_gru(),
        input_size=X,
        hidden_size=H,
        output_size=Y,
        num_layers=2,
        learned_initial_state=True,
    )
    options = OPTIONS.get(request.param, {})
    estimator = ESTIMATORS[request.param](model, squared_error, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return estimator, jax.tree.map(np.float32, draw_like(shapes, 0, 0.5))


def single(segment):
    return jax.tree.map(np.float32, segment)


def test_interface(member, tmp_path):
    estimator, params = member
    state = estimator.init(params, (B,), jax.random.key(0))
    for leaf in jax.tree.leaves(state):
        assert leaf.shape[:1] in ((), (B,))
    estimate = jit(chex.assert_max_traces(estimator.estimate, n=1))

    sums, second = estimate(params, state, single(make_segment(0)))
    again, third = estimate(params, second, single(make_segment(1)))

    for loss, grads, weight in (sums, again):
        chex.assert_shape((loss, weight), ())
        assert loss.dtype == weight.dtype == jnp.float32
        chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
        chex.assert_tree_all_finite((loss, grads, weight))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, second, third)

    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    saved = TrainState(params, {}, second, jnp.asarray(3))
    checkpoints.save(jax.tree.map(jnp.asarray, saved))
    restored, _ = checkpoints.restore(saved._replace(estimator=state))
    checkpoints.close()
    from_restored, _ = estimate(params, restored.estimator, single(make_segment(1)))
    chex.assert_trees_all_equal(from_restored, again)
