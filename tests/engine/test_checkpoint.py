"""Files that are whole or absent."""

import contextlib
import os
import resource
from functools import partial

import pytest
import torch

from boxwright import files
from boxwright.engine.checkpoint import load_state, load_weights, save_state, save_weights
from boxwright.errors import RunError
from boxwright.files import atomic_path


def test_weights_round_trip_with_header(tmp_path):
    shared = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    state = {"a": shared, "tied": shared, "half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)}
    header = {"classes": ["Zelle", "血小板"], "epoch": 3, "metrics": {"AP": None}}
    save_weights(tmp_path / "w.safetensors", state, header)
    loaded, found = load_weights(tmp_path / "w.safetensors")
    assert found == header
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    with contextlib.suppress(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half of")
        raise RuntimeError("the disk is full")
    assert load_state(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["state.pt"]


def test_state_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: events.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    save_state(tmp_path / "state.pt", {"step": 1})
    assert events[:2] == ["fsync", "rename"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_broken_files_are_named(tmp_path, content):
    for name, load in (("x.pt", load_state), ("x.safetensors", load_weights)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match=name):
            load(tmp_path / name)
        with pytest.raises(RunError, match="there is no"):
            load(tmp_path / f"missing-{name}")


def test_code_in_a_state_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"step": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(RunError, match=r"trap\.pt"):
        load_state(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_what_the_system_says_about_a_write_is_not_hidden(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        for name, save in (("last.pt", save_state), ("last.safetensors", partial(save_weights, header={}))):
            with pytest.raises(OSError, match="File too large") as error:
                save(tmp_path / name, {"weight": torch.zeros(100_000)})
            assert error.value.filename == str(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*tmp_path.iterdir()]
