"""Checkpoints: what counts, and what is saved beside what was cut short."""

import jax.numpy as jnp
import numpy as np

from jaxlstm.lab.checkpoints import Checkpoints
from jaxlstm.lab.training import TrainState


def state_after(update):
    params = {"w": jnp.full((2, 3), 1.0 * update)}
    return TrainState(params, {}, {}, jnp.asarray(update))


def test_one_cut_short_is_in_nobodys_way(tmp_path):
    """Killed while 12 was saved, gone on with from 10, and stopped at 11."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for update in (10, 12):
        checkpoints.save(state_after(update))
    checkpoints.close()
    (tmp_path / "latest/12/manifest.json").unlink()

    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.number("latest") == 10
    checkpoints.save(state_after(11))
    checkpoints.close()

    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.number("latest") == 11
    restored, _ = checkpoints.restore(state_after(0))
    checkpoints.close()
    np.testing.assert_array_equal(restored.params["w"], np.full((2, 3), 11.0))
    assert int(restored.num_updates) == 11
    assert {path.name for path in (tmp_path / "latest").iterdir()} == {"10", "11"}
