"""What every test runs under."""

from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import pytest

PEERS = Path(__file__).parent / "peers"

jax.config.update("jax_numpy_rank_promotion", "raise")
# The laboratory shards the batch over two; has no effect once a backend exists.
jax.config.update("jax_num_cpu_devices", 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(PEERS):
            item.add_marker(pytest.mark.peers)


@pytest.fixture(autouse=True)
def _fresh_trace_counts() -> None:
    """Lets `chex.assert_max_traces` count anew, for it counts by code object."""
    chex.clear_trace_counter()


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs a test in float64."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
