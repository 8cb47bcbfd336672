"""What a safetensors file says of itself beside its arrays."""

import numpy as np
import pytest
from safetensors import safe_open

from jaxlstm.interop import (
    WeightsError,
    read_metadata,
    read_safetensors,
    save_safetensors,
)
from jaxlstm.interop.safetensors import LONGEST_HEADER

PARAMS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
ENTRIES = {"config": 'cell = "lstm"\n', "symbols": "\u00e4\u0000"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_entries_come_back_and_change_no_array(path):
    save_safetensors(path, PARAMS, metadata=ENTRIES)
    assert read_metadata(path) == ENTRIES
    np.testing.assert_array_equal(read_safetensors(path)["w"], PARAMS["w"])
    with safe_open(path, framework="np") as file:
        with_entries = file.metadata()
    save_safetensors(path, PARAMS)
    assert read_metadata(path) == {}
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"jaxlstm": with_entries["jaxlstm"]}


def test_the_hash_has_a_name_of_its_own(path):
    with pytest.raises(ValueError, match="jaxlstm is the entry of the file's own"):
        save_safetensors(path, PARAMS, metadata={"jaxlstm": "1 0"})
    assert not path.exists()


def test_what_could_not_be_read_back_is_not_written(path):
    with pytest.raises(ValueError, match=r"metadata have .* can be read back"):
        save_safetensors(path, PARAMS, metadata={"long": "x" * LONGEST_HEADER})
    assert not path.exists()
    entries = {"long": "x" * (LONGEST_HEADER - 300)}
    save_safetensors(path, PARAMS, metadata=entries)
    assert read_metadata(path) == entries


def test_what_is_no_file_of_the_kind_is_refused(path):
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(WeightsError, match="is no safetensors file"):
        read_metadata(path)
