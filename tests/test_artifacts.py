"""Folders that can be trusted: whole or not there, hashes, one owner."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from weft.artifacts import (
    LOCK,
    MANIFEST,
    kind_of,
    lock,
    new_folder,
    read_manifest,
    sha256,
    verify,
    write_atomic,
    write_json,
)
from weft.errors import ArtifactError, Locked


def make(target: Path, content: bytes = b"four") -> Path:
    with new_folder(target, "store", rows=3) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "a.npy").write_bytes(content)
        (folder / "b.txt").write_text("b")
    return target


# ---- new_folder ----


def test_a_folder_is_whole_with_its_manifest(tmp_path: Path) -> None:
    target = make(tmp_path / "deep" / "store")
    manifest = verify(target, "store")
    assert manifest["rows"] == 3
    assert set(manifest["files"]) == {"part/a.npy", "b.txt"}
    assert manifest["files"]["part/a.npy"] == {"sha256": sha256(target / "part" / "a.npy"), "bytes": 4}
    assert os.listdir(target.parent) == ["store"]


def test_the_id_is_the_content(tmp_path: Path) -> None:
    first, same, other = make(tmp_path / "1"), make(tmp_path / "2"), make(tmp_path / "3", b"five")
    ids = [read_manifest(folder, "store")["id"] for folder in (first, same, other)]
    assert ids[0] == ids[1] != ids[2]


def test_a_manifest_of_an_inner_folder_is_a_file_like_others(tmp_path: Path) -> None:
    with new_folder(tmp_path / "bundle", "bundle") as folder:
        make(folder / "inner")
    assert "inner/manifest.json" in read_manifest(tmp_path / "bundle", "bundle")["files"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_behind(tmp_path: Path, kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        _write_half(tmp_path / "store", kind)
    assert list(tmp_path.iterdir()) == []


def _write_half(target: Path, kind: type[BaseException]) -> None:
    with new_folder(target, "store") as folder:
        (folder / "half").write_text("half")
        raise kind


def test_an_existing_target_is_refused_and_kept(tmp_path: Path) -> None:
    target = make(tmp_path / "store")
    with pytest.raises(ArtifactError, match="store' exists already"):
        make(target, b"new")
    assert (target / "part" / "a.npy").read_bytes() == b"four"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="file' exists already"):
        make(tmp_path / "file")


def test_an_empty_target_is_taken(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    verify(make(tmp_path / "store"), "store")


# ---- verify ----


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = make(tmp_path / "store") / "part" / "a.npy"
    data = bytearray(path.read_bytes())
    data[2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"'part/a\.npy' differs from its hash"):
        verify(tmp_path / "store", "store")


def test_a_cut_and_a_missing_file_are_found(tmp_path: Path) -> None:
    path = make(tmp_path / "store") / "b.txt"
    path.write_text("")
    with pytest.raises(ArtifactError, match=r"'b\.txt' differs"):
        verify(tmp_path / "store", "store")
    path.unlink()
    with pytest.raises(ArtifactError, match=r"'b\.txt' is missing"):
        verify(tmp_path / "store", "store")


def test_another_kind_and_format_are_named(tmp_path: Path) -> None:
    target = make(tmp_path / "store")
    with pytest.raises(ArtifactError, match="is a store of format 1, a run of format 1 is needed"):
        read_manifest(target, "run")
    _edit(target, format=9)
    with pytest.raises(ArtifactError, match="store of format 9"):
        read_manifest(target, "store")


def test_an_edited_manifest_is_found(tmp_path: Path) -> None:
    target = make(tmp_path / "store")
    _edit(target, files={})
    with pytest.raises(ArtifactError, match="its id does not match"):
        read_manifest(target, "store")


def _edit(target: Path, **facts: object) -> None:
    manifest = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps(manifest | facts))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "store"', '{"kind": "store", "format": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    target = make(tmp_path / "store")
    (target / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json' is damaged"):
        verify(target, "store")


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="none' is not a folder; give the path of a run"):
        read_manifest(tmp_path / "none", "run")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json: it is no run"):
        read_manifest(tmp_path, "run")


# ---- write_atomic ----


def test_write_atomic_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pointer"
    write_atomic(path, b"1")
    write_atomic(path, b"22")
    assert path.read_bytes() == b"22"
    assert os.listdir(path.parent) == ["pointer"]


def test_write_atomic_keeps_the_old_file_on_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pointer"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, "replace", _fail)
    with pytest.raises(OSError, match="disk"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["pointer"]


def _fail(*args: object) -> None:
    raise OSError("disk")


# ---- lock ----

HOLD = """
import sys, time
from pathlib import Path
from weft.artifacts import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_live_process_keeps_its_lock_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "held\n"
            with pytest.raises(Locked, match=f"in use by process {owner.pid}"), lock(tmp_path):
                pass
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
    with lock(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_lock_is_free_after_use_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(Locked), lock(tmp_path), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_the_lock_file_is_not_in_the_manifest(tmp_path: Path) -> None:
    with new_folder(tmp_path / "run", "run") as folder, lock(folder):
        (folder / "a").write_text("a")
    assert set(verify(tmp_path / "run", "run")["files"]) == {"a"}


def test_json_is_written_whole_and_a_line_a_value(tmp_path: Path) -> None:
    value = {"a": [1, 2.5], "b": None}
    write_json(tmp_path / "deep" / "value.json", value)
    text = (tmp_path / "deep" / "value.json").read_text()
    assert json.loads(text) == value
    assert text.splitlines()[1:3] == [' "a": [', "  1,"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "deep" / "value.json", object())
    assert os.listdir(tmp_path / "deep") == ["value.json"]
    assert (tmp_path / "deep" / "value.json").read_text() == text


def test_a_folder_tells_what_it_is(tmp_path: Path) -> None:
    with new_folder(tmp_path / "one", "bundle"):
        pass
    assert kind_of(tmp_path / "one") == "bundle"
    for text in ("", "[]", "{}", '{"kind": 3}'):
        (tmp_path / MANIFEST).write_text(text)
        assert kind_of(tmp_path) is None
    assert kind_of(tmp_path / "nowhere") is None
