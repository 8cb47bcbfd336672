"""What every test runs under."""

import os
from collections.abc import Iterator
from pathlib import Path

import chex
import jax
import pytest

PEERS = Path(__file__).parent / "peers"
# All is kept: by default small programs are not, of which tests are made.
COMPILATION_CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

jax.config.update("jax_numpy_rank_promotion", "raise")
# Two devices, made here: a config of the laboratory may ask for another number, which
# has no effect once they exist.
jax.config.update("jax_num_cpu_devices", 2)
jax.devices()


def pytest_configure(config: pytest.Config) -> None:
    """Keeps what XLA compiles for the next run, and for processes that tests start."""
    cache = getattr(config, "cache", None)
    if cache is None:
        return
    options = {
        "jax_compilation_cache_dir": str(cache.mkdir("xla")),
        **COMPILATION_CACHE,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of tests/peers by where they stand."""
    for item in items:
        if item.path.is_relative_to(PEERS):
            item.add_marker(pytest.mark.peers)


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    """Lets no test change another: by float64 left on, or by traces counted.

    `chex.assert_max_traces` counts by code object.
    """
    chex.clear_trace_counter()
    before = jax.config.read("jax_enable_x64")
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def x64(_isolated: None) -> None:
    """Runs a test in float64."""
    jax.config.update("jax_enable_x64", True)
