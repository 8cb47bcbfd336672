"""The wheel holds the library alone, and needs jax alone."""

import email
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import jaxlstm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INFO = f"jaxlstm-{PROJECT['version']}.dist-info"

CELL_ALONE = """
import importlib.metadata, re, sys

def closure(name, seen):
    name = re.match(r"[\\w.-]+", name)[0]
    if name not in seen:
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            if "extra ==" not in line:
                closure(line, seen)
    return seen

brought = closure("jax", set())
packages = importlib.metadata.packages_distributions()
foreign = {
    top for top, owners in packages.items()
    if not {owner.lower().replace("-", "_") for owner in owners}
    & {name.lower().replace("-", "_") for name in brought}
}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in foreign - {"jaxlstm"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuse())
import jax
import jaxlstm

assert ".whl" in jaxlstm.__file__, jaxlstm.__file__
params = jaxlstm.init_lstm(jax.random.key(0), 3, 4)
state = jaxlstm.zero_state(params, (2,))
_, output = jaxlstm.lstm_cell(params, state, jax.numpy.ones((2, 3)))
assert output.shape == (2, 4)
try:
    import optax
except ModuleNotFoundError:
    print("alone")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_versions_agree():
    version = PROJECT["version"]
    assert jaxlstm.__version__ == version
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation


def test_wheel_holds_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"jaxlstm", INFO}
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("jaxlstm/**/*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_wheel_needs_jax_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{INFO}/METADATA"))
        entries = archive.read(f"{INFO}/entry_points.txt").decode()
    requires = metadata.get_all("Requires-Dist", [])
    assert [line for line in requires if "extra ==" not in line] == ["jax>=0.10"]
    extras = set(PROJECT["optional-dependencies"])
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    assert "jaxlstm = jaxlstm.__main__:main" in entries


@pytest.mark.slow
def test_cell_runs_from_the_wheel_with_jax_alone(wheel, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CELL_ALONE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alone\n"
