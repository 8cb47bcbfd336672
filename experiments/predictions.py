"""What a run's model predicts, for pictures."""

import jax
import numpy as np

from jaxlstm.lab import Run, Segment


def predict(run: Run, split: str, num_steps: int) -> tuple[Segment, np.ndarray]:
    """Returns the first steps of a split, and what is predicted there.

    Args:
      run: whose model and parameters.
      split: its name.
      num_steps: how many steps at least; whole segments are taken.

    Returns:
      The steps as one long segment, leaves [T, B, ...], and predictions [T, B, Y].
    """
    train = run.config.sections.train
    count = -(-num_steps // train.segment_length)
    segments = run.experiment.split(split).segments(0, count)
    whole = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), segments)
    model, params = run.model, run.params

    @jax.jit
    def unroll(whole: Segment) -> jax.Array:
        state = model.initial_state(params, (train.batch_size,))
        _, states = model.unroll(
            params.recurrent,
            state,
            whole.inputs,
            mask=whole.mask,
            resets=whole.resets,
        )
        return model.readout(params, states)

    return whole, np.asarray(unroll(whole))
