"""`import jaxlstm` loads jax and itself, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# `jax.extend.core` is where the rule of gated cells gets its primitive.
SCRIPT = """
import json, sys
import jax, jax.extend.core
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_after_jax(statement: str) -> list[str]:
    """Returns the modules that a statement loads where jax is loaded already."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(statement=statement)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def outsiders(modules: list[str]) -> list[str]:
    """Returns what is neither of jaxlstm nor of the parts of jax that come cheap."""
    heavy = "jax.experimental", "jax._src.pallas"
    return [
        name
        for name in modules
        if name.split(".")[0] not in {"jaxlstm", "jax"} or name.startswith(heavy)
    ]


def test_import_loads_jax_only():
    modules = loaded_after_jax("import jaxlstm")
    assert "jaxlstm.sequence" in modules
    assert outsiders(modules) == []
    optional = {"jaxlstm.lab", "jaxlstm.flax", "jaxlstm.__main__"}
    assert optional.isdisjoint(modules)


def test_heavier_imports_are_found():
    modules = loaded_after_jax("import jaxlstm, chex, jax.experimental.rnn")
    assert {"chex", "jax.experimental.rnn"} <= set(outsiders(modules))
