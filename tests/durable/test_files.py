import errno
import json
import os
import resource
import subprocess
import sys

import pytest

from ariel_jax import durable
from ariel_jax.durable import files
from ariel_jax.errors import StorageError


def snapshot(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def write_file(path):
    durable.write_json(path / "profile.json", {"new": list(range(100))})


def write_folder(path):
    with durable.replacing_directory(path / "checkpoint") as folder:
        (folder / "params").mkdir()
        (folder / "params" / "w.bin").write_bytes(b"new weights")


@pytest.fixture
def filled(tmp_path):
    (tmp_path / "profile.json").write_text('{"old": 1}')
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "w.bin").write_bytes(b"old weights")
    return tmp_path


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("once", [False, True])
def test_a_disk_that_fails_at_any_write_call_leaves_old_or_new(
    filled, failing_disk, write, code, once
):
    before = snapshot(filled)
    with failing_disk(code, 10**9, removals=True) as disk:
        write(filled)
    n_calls, after = len(disk.calls), snapshot(filled)
    assert n_calls >= 5
    assert after != before
    outcomes = []
    for fail_at in range(1, n_calls + 1):
        for path in sorted(filled.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for name, content in before.items():
            path = filled / name
            path.mkdir() if content is None else path.write_bytes(content)
        with failing_disk(code, fail_at, once=once, removals=True):
            try:
                write(filled)
                message, found = None, code
            except StorageError as error:
                message, found = str(error), error.errno
        assert found == code
        left = {n: c for n, c in snapshot(filled).items() if not n.startswith(".")}
        # The message tells the truth about what is there now.
        if message and "unchanged" in message:
            assert left == before
            # Only what cannot be removed stays beside it.
            assert not once or snapshot(filled) == before
            outcomes.append("old")
        else:
            assert left == after
            assert message is None or "has its new content" in message
            outcomes.append("new" if message else "done")
    # Failing calls up to the rename keep the old content, the flush of its folder the new one;
    # none but the removal of an old folder's files may fail unseen.
    n_old = outcomes.count("old")
    assert n_old >= 3
    assert outcomes[: n_old + 1] == ["old"] * n_old + ["new"]
    assert outcomes.count("done") == (0 if write is write_file else n_calls - n_old - 1)


def test_a_file_above_the_size_limit_leaves_the_old_one(tmp_path):
    target = tmp_path / "big.bin"
    target.write_bytes(b"old")
    code = f"""
import resource
from ariel_jax import durable
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))
try:
    durable.write_bytes({str(target)!r}, bytes(3_000_000))
except durable.files.StorageError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ulimit -f" in run.stdout
    assert run.stderr == ""
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["big.bin"]


def test_an_error_in_the_block_changes_nothing(filled):
    before = snapshot(filled)

    def stop_in_file():
        with durable.replacing(filled / "profile.json") as file:
            file.write(b"half of it")
            raise KeyError("stop")

    def stop_in_folder():
        with durable.replacing_directory(filled / "checkpoint") as folder:
            (folder / "w.bin").write_bytes(b"half of it")
            raise KeyError("stop")

    for stop in (stop_in_file, stop_in_folder):
        with pytest.raises(KeyError):
            stop()
    assert snapshot(filled) == before


def test_private_files_are_readable_by_their_owner_only(tmp_path):
    durable.write_json(tmp_path / "key.json", {}, private=True)
    durable.write_json(tmp_path / "open.json", {})
    assert (tmp_path / "key.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "open.json").stat().st_mode & 0o044 == 0o044
    assert json.loads((tmp_path / "key.json").read_text()) == {}


def test_a_folder_is_created_and_replaced_also_without_name_exchange(tmp_path, monkeypatch):
    for exchange in (files._exchange, lambda one, other: False):
        monkeypatch.setattr(files, "_exchange", exchange)
        for content in (b"one", b"two"):
            with durable.replacing_directory(tmp_path / "checkpoint") as folder:
                (folder / "w.bin").write_bytes(content)
            assert snapshot(tmp_path) == {"checkpoint": None, "checkpoint/w.bin": content}


def test_a_failed_second_rename_puts_the_old_folder_back(filled, monkeypatch):
    before = snapshot(filled)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename, calls = os.rename, []

    def second_fails(one, other):
        calls.append(other)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(one, other)

    monkeypatch.setattr(files.os, "rename", second_fails)
    with pytest.raises(StorageError):
        write_folder(filled)
    assert len(calls) == 3
    assert snapshot(filled) == before


def test_a_missing_folder_is_named_with_a_remedy(tmp_path):
    with pytest.raises(StorageError, match="create it first"):
        durable.write_bytes(tmp_path / "absent" / "file", b"")
