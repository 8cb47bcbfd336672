"""Sampling: text from a model over symbols, chunk by chunk."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm.lab.draws import Sampling, draw_noise
from jaxlstm.lab.errors import UserError
from jaxlstm.lab.files import write_text
from jaxlstm.lab.runs import VOCABULARY, Run
from jaxlstm.lab.task import Task
from jaxlstm.lab.vocabulary import Vocabulary
from jaxlstm.model import Model, ModelParams
from jaxlstm.types import Array, Key

# Steps of one compiled call. A call costs the host some hundred microseconds, a step
# of a small net ten.
CHUNK = 128
# Bytes of random numbers that a call may hold; with many symbols it makes fewer steps.
NOISE_BYTES = 2**24
# Bytes that the states of all samples, and the random numbers of a step, may take.
MEMORY = 2**30
# A prompt may come before it.
LONGEST = 2**30
# Symbols of the prompt that one compiled call reads.
PROMPT_BLOCK = 64
LINE_FEEDS = {"characters": "\n", "bytes": 10, "words": "<eos>"}


class Sample(Protocol):
    """Goes on where a prompt ends."""

    def __call__(
        self,
        params: ModelParams,
        prompt: np.ndarray,
        key: Key,
        *,
        length: int,
        num_samples: int = 1,
    ) -> Iterator[np.ndarray]:
        """Reads a prompt [N] and returns the symbols after it, chunk by chunk.

        Each chunk is [C, num_samples], int32; `length` of them follow in all.

        Raises:
          UserError: the prompt is empty, top-k exceeds the number of symbols, or the
            samples do not fit into 1 GiB.
        """
        ...


def make_sampler(
    model: Model,
    options: Sampling,
    *,
    chunk_size: int | None = None,
) -> Sample:
    """Returns a function that samples from a model.

    It computes symbols chunk by chunk, each in one compiled call, and the next one
    while the caller has the last. What is drawn as symbol t of sample b depends on the
    key, b and t alone, apart from the rounding of the model's products.

    Args:
      model: one over symbols, whose predictions are logits.
      options: how symbols are drawn.
      chunk_size: steps of a compiled call; by default 128, or fewer where their
        random numbers would not fit into 16 MiB.

    Raises:
      UserError: the model has no online form.
    """
    if model.step is None:
        raise UserError("model: has no online form, so it cannot be sampled from")
    advance = model.step

    @jax.jit
    def read(params: ModelParams, state: Any, block: Array, length: Array) -> Any:
        mask = jnp.arange(PROMPT_BLOCK) < length
        return model.unroll(params.recurrent, state, block, mask=mask)[0]

    @functools.partial(jax.jit, static_argnames="count")
    def generate(
        params: ModelParams, state: Any, key: Key, first: int, count: int
    ) -> tuple[Any, Array]:
        def step(state: Any, noise: Array | None) -> tuple[Any, Array]:
            symbols = options.draw(model.readout(params, state), noise)
            return advance(params.recurrent, state, symbols), symbols

        shape = jax.eval_shape(model.readout, params, state).shape
        noise = None if options.greedy else draw_noise(key, first, count, shape)
        return jax.lax.scan(step, state, noise, length=count)

    def sample(
        params: ModelParams,
        prompt: np.ndarray,
        key: Key,
        *,
        length: int,
        num_samples: int = 1,
    ) -> Iterator[np.ndarray]:
        if not len(prompt):
            raise UserError("prompt: is empty; the model has to start from something")
        state = model.initial_state(params, ())
        num_symbols = jax.eval_shape(model.readout, params, state).shape[-1]
        options.check(num_symbols)
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
        fitting = MEMORY // (state_bytes + 4 * num_symbols * (chunk_size or 1))
        if num_samples > fitting:
            raise UserError(
                f"--num-samples {num_samples}: {fitting:,} fit into "
                f"{MEMORY / 2**30:g} GiB of states and noise; use at most that"
            )
        for start in range(0, len(prompt), PROMPT_BLOCK):
            given = prompt[start : start + PROMPT_BLOCK]
            block = np.zeros(PROMPT_BLOCK, np.int32)
            block[: len(given)] = given
            state = read(params, state, block, len(given))
        state = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (num_samples, *x.shape)), state
        )
        count = chunk_size or min(
            CHUNK, max(1, NOISE_BYTES // (4 * num_samples * num_symbols))
        )
        return stream(params, state, key, length, count)

    def stream(
        params: ModelParams, state: Any, key: Key, length: int, count: int
    ) -> Iterator[np.ndarray]:
        before = None
        for first in range(0, length, count):
            state, symbols = generate(params, state, key, first, count)
            # The call above returns before it is done: this waits for the one before.
            if before is not None:
                yield np.asarray(before)
            before = symbols
        if before is not None:
            yield np.asarray(before)[: (length - 1) % count + 1]

    return sample


def sample_text(
    run: Run,
    options: Sampling,
    *,
    prompt: str | None = None,
    length: int = 500,
    num_samples: int = 1,
    seed: int = 0,
) -> Iterator[str]:
    """Yields the text that a run's model writes, in pieces, as they are computed.

    Several samples are computed together, and come one after the other, each under a
    line that numbers it.

    Args:
      run: of a task with a vocabulary.
      options: how symbols are drawn.
      prompt: what the model reads first; the text begins with it. Without one, the
        model reads a symbol that is not part of the text: see `start_symbol`.
      length: how many symbols follow the prompt.
      num_samples: how many samples.
      seed: of the draws.

    Raises:
      UserError: nothing can be sampled, not from this prompt, or not so many.
    """
    _check_numbers(options, length, num_samples, seed)
    if run.labels is not None:
        raise UserError(
            f"{run.path}: its model sorts texts, and writes none; use `jaxlstm predict "
            f"{run.path} --text TEXT`"
        )
    vocabulary = require_vocabulary(run)
    if prompt is None:
        read = np.array([start_symbol(vocabulary)])
    else:
        read = vocabulary.encode(prompt)
        if not len(read):
            raise UserError(
                f"--prompt {json.dumps(prompt)}: holds no {vocabulary.unit}; write "
                "some, or leave it out"
            )
    sample = make_sampler(run.model, options)
    chunks = sample(
        run.params,
        read,
        jax.random.key(seed),
        length=length,
        num_samples=num_samples,
    )
    most = MEMORY // 4 // num_samples
    if num_samples > 1 and length > most:
        # All are kept while the first one is shown.
        raise UserError(
            f"--length {length}: {num_samples} samples of it do not fit into 1 GiB; "
            f"use at most {most}, or fewer samples"
        )
    shown = [] if prompt is None else read.tolist()
    computed: list[np.ndarray] = []

    def columns(number: int) -> Iterator[list[int]]:
        yield shown
        yield from [chunk[:, number].tolist() for chunk in computed]
        for chunk in chunks:
            if num_samples > 1:
                computed.append(chunk)
            yield chunk[:, number].tolist()

    for number in range(num_samples):
        if num_samples > 1:
            yield f"--- sample {number + 1} of {num_samples} ---\n"
        decode = vocabulary.decoder()
        for symbols in columns(number):
            yield decode(symbols)
        yield "\n"


def _check_numbers(options: Sampling, length: int, num_samples: int, seed: int) -> None:
    for name, value in (("--length", length), ("--num-samples", num_samples)):
        if value < 1:
            raise UserError(f"{name} {value}: has to be 1 or more")
    # Steps are counted in 32 bits.
    if length > LONGEST:
        raise UserError(f"--length {length}: has to be at most {LONGEST}")
    if options.greedy and num_samples > 1:
        raise UserError(
            f"--num-samples {num_samples}: would all be the same, for --greedy draws "
            "nothing; leave one of the two out"
        )
    # JAX drops the bits of a key's seed above these.
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: has to be in 0 ... {2**32 - 1}")


def require_vocabulary(run: Run) -> Vocabulary:
    """Returns a run's vocabulary.

    Raises:
      UserError: its task has none, or its file is missing or another one's.
    """
    num_symbols = run.facts["parts"]["input_size"]
    if run.vocabulary is not None:
        if len(run.vocabulary) != num_symbols:
            raise UserError(
                f"{run.path / VOCABULARY}: has {len(run.vocabulary)} symbols, and the "
                f"model {num_symbols}; put back the file that the run was made with"
            )
        return run.vocabulary
    if not run.facts["parts"].get("symbols"):
        raise UserError(
            f"{run.path}: has no vocabulary, for its task is none on text; name a run "
            "of one that is"
        )
    if type(run.task).vocabulary is Task.vocabulary:
        raise UserError(
            f"{run.path}: has no vocabulary, for its task says nothing of what its "
            "symbols stand for; give the task a `vocabulary`, and train anew"
        )
    raise UserError(
        f"{run.path / VOCABULARY}: is missing; put back the file that the run was made "
        "with"
    )


def start_symbol(vocabulary: Vocabulary) -> int:
    """Returns the symbol that stands before a text without a prompt.

    It is the line feed ("<eos>" among words); where there is none, the first symbol
    that is not the unknown one.
    """
    symbols, line_feed = vocabulary.symbols, LINE_FEEDS[vocabulary.unit]
    if line_feed in symbols:
        return symbols.index(line_feed)
    return int(vocabulary.unknown == 0 and len(symbols) > 1)


def write_samples(run: Run, path: Path) -> None:
    """Writes what a run's model has learned to write: 300 symbols each.

    Three samples at temperature 0.8 and a greedy one, from the run's seed.

    Args:
      run: of a task with a vocabulary.
      path: the file.
    """
    ways = {
        "temperature 0.8": (Sampling(temperature=0.8), 3),
        "greedy": (Sampling(greedy=True), 1),
    }
    seed = run.config.sections.seed
    pieces = []
    for title, (options, num_samples) in ways.items():
        text = sample_text(run, options, length=300, num_samples=num_samples, seed=seed)
        pieces += [f"=== {title} ===\n", *text, "\n"]
    write_text(path, "".join(pieces))
