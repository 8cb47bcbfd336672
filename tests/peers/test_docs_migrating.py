"""The code of docs/migrating.md runs, each framework's by itself."""

import re
import sys
import types

import jax
import numpy as np
import pytest

from tests.peers.keras_peer import FILTER
from tests.test_docs import ROOT, find_blocks

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings(FILTER)]

PAGE = ROOT / "docs/migrating.md"
SECTIONS = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
# These go on with what the section before them has made.
CONTINUED = "Unknown origin", "If outputs differ"
# What a section leaves behind, in pairs that must be near each other.
PAIRS = {
    "PyTorch": [("start[1].forward.h", "states[1].forward.h"), ("h", "h_n.detach()")],
    "Unknown origin": [("found.params.w_h", "own.w_h")],
}


def run_section(name, module):
    """Runs the Python blocks under a heading, and returns how many there are."""
    lines = PAGE.read_text().splitlines()
    start = lines.index(f"## {name}") + 1
    ends = [n for n, line in enumerate(lines) if line.startswith("## ") and n > start]
    blocks = [
        block
        for block in find_blocks(PAGE)
        if start < block.line <= min(ends, default=len(lines))
        and block.language in ("py", "python")
    ]
    for block in blocks:
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, PAGE, "exec"), module.__dict__)
    return len(blocks)


@pytest.mark.parametrize("name", [n for n in SECTIONS if n not in CONTINUED])
def test_section_runs_by_itself(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("migrating_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = [name]
    if name == "Textbooks and tutorials":
        names += CONTINUED
    # Keras adds arrays of unlike rank.
    with jax.numpy_rank_promotion("allow"):
        for each in names:
            assert run_section(each, module)
    for each in names:
        for found, wanted in PAIRS.get(each, []):
            pair = (eval(code, module.__dict__) for code in (found, wanted))
            np.testing.assert_allclose(*map(np.asarray, pair), atol=1e-5)
    if CONTINUED[-1] in names:
        (block,) = [block for block in find_blocks(PAGE) if block.language == "text"]
        assert block.code.strip() == str(vars(module)["report"])


def test_every_framework_has_its_row():
    links = re.findall(r"^\| \[.*?\]\(#(.*?)\)", PAGE.read_text(), re.MULTILINE)
    others = *CONTINUED, "Flax's modules"
    frameworks = {name for name in SECTIONS if name not in others}
    assert set(links) == {name.lower().replace(" ", "-") for name in frameworks}
