"""The code of docs/weights.md that needs PyTorch runs, after that which does not."""

import sys
import types

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.test_docs import ROOT, find_blocks

pytestmark = pytest.mark.peers


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Returns what the page's names stand for at its end."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("weights_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = ROOT / "docs/weights.md"
    blocks = [block for block in find_blocks(path) if block.language[:2] == "py"]
    assert sum(block.language == "py" for block in blocks) == 6
    for block in blocks:
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, path, "exec"), module.__dict__)
    return module


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-6)


def test_the_page(page):
    packed = pack_padded_sequence(page.x, [5, 3], batch_first=True)
    outputs, (h_n, c_n) = page.layer(packed, (page.h_0, page.c_0))
    outputs, _ = pad_packed_sequence(outputs, batch_first=True)
    assert_near(page.outputs, outputs)
    assert_near(page.h_n, h_n)
    assert_near(page.c_n, c_n)

    tagger = page.Tagger()
    tensors = {name: torch.tensor(w) for name, w in page.back.items()}
    tagger.load_state_dict(tensors, strict=True)
    _, (h, _) = tagger.lstm(tagger.embedding(torch.tensor(page.symbols)))
    assert_near(page.logits, tagger.fc(torch.cat([h[-2], h[-1]], dim=-1)))
    assert_near(page.table, tagger.embedding.weight)
