"""The store's promise: a finished run is whole and stays so; anything else is not seen."""

import errno
import json
import subprocess
from pathlib import Path

import fsspec
import pytest

from sweep.errors import StoreError
from sweep.gc import delete, find_garbage
from sweep.store import CorruptEntryError, Heartbeat, Store


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    """The same promise on a file system and on an object store."""
    if request.param == "folder":
        yield Store(tmp_path / "results")
    else:
        yield Store("memory://results")
        fsspec.filesystem("memory").store.clear()


def write(store: Store, run_id: str = "run-1", content: str = "hello") -> None:
    with store.writing(run_id) as attempt:
        (attempt.folder / "log.txt").write_text(content)
        (attempt.folder / "weights").mkdir()
        (attempt.folder / "weights" / "model.bin").write_bytes(b"\0" * 100)


def place_of(store: Store, name: str, run_id: str = "run-1") -> str:
    done = store.done(run_id)
    assert done
    return store.path("runs", run_id, "attempts", done.attempt, name)


def test_a_run_is_done_after_a_clean_exit_and_reads_back(store):
    assert store.done("run-1") is None
    write(store)
    assert store.read("run-1", "log.txt") == b"hello"
    assert (store.folder("run-1", "weights") / "model.bin").read_bytes() == b"\0" * 100
    assert store.verify("run-1") == store.done("run-1")


def test_nothing_is_seen_of_a_run_before_its_end(store):
    with store.writing("run-1") as attempt:
        (attempt.folder / "log.txt").write_text("half")
        assert store.done("run-1") is None
        with pytest.raises(StoreError, match="run-1 is not done"):
            store.read("run-1", "log.txt")


def test_a_failed_attempt_leaves_its_error_and_no_mark(store):
    with pytest.raises(RuntimeError), store.writing("run-1"):
        raise RuntimeError("loss is NaN at step 3")
    assert store.done("run-1") is None
    (failure,) = store.failures("run-1")
    assert failure.signature == ("RuntimeError", "loss is NaN at step 3")
    assert "Traceback" in failure.detail


def test_of_two_writers_the_first_to_finish_stands(store):
    with store.writing("run-1") as slow:
        (slow.folder / "log.txt").write_text("slow")
        write(store, content="fast")
    assert store.read("run-1", "log.txt") == b"fast"


@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_damage_is_found_and_named(store, damage):
    write(store)
    place = place_of(store, "log.txt")
    if damage == "missing":
        store.fs.rm_file(place)
    else:
        store.fs.pipe_file(place, b"hellx" if damage == "changed" else b"hel")
    with pytest.raises(CorruptEntryError, match=r"log\.txt"):
        store.verify("run-1")
    with pytest.raises(CorruptEntryError, match=r"log\.txt"):
        store.read("run-1", "log.txt")
    done, damaged = store.survey(["run-1", "run-2"], verify=True)
    assert not done
    assert set(damaged) == {"run-1"}


def test_a_mark_that_is_no_json_is_damage_and_can_be_set_aside(store):
    write(store)
    store.fs.pipe_file(store.path("runs", "run-1", "DONE"), b"{")
    with pytest.raises(CorruptEntryError, match="DONE"):
        store.done("run-1")
    store.quarantine("run-1")
    assert store.done("run-1") is None
    write(store, content="again")
    assert store.read("run-1", "log.txt") == b"again"


def test_heartbeats_are_replaced_and_read(store):
    assert store.heartbeats("run-1") == []
    for attempt, time, fraction in (("a", 2.0, 0.1), ("b", 1.0, 0.5), ("a", 3.0, 0.2)):
        store.beat("run-1", Heartbeat(attempt, "host", 1, time, fraction))
    assert store.heartbeats("run-1") == [Heartbeat("b", "host", 1, 1.0, 0.5), Heartbeat("a", "host", 1, 3.0, 0.2)]
    store.end_beat("run-1", "a")
    assert [beat.attempt for beat in store.heartbeats("run-1")] == ["b"]


def test_gc_lists_what_nobody_needs_and_spares_what_somebody_does(store):
    write(store)
    with store.writing("run-1") as late:  # refused, since run-1 is done
        (late.folder / "log.txt").write_text("late")
    with pytest.raises(RuntimeError), store.writing("run-2"):
        raise RuntimeError("why")
    assert [item.why for item in find_garbage(store)] == ["refused attempt"]
    assert sorted(item.why for item in find_garbage(store, failed=True)) == ["failed attempt", "refused attempt"]
    delete(store, find_garbage(store))
    assert find_garbage(store) == []
    assert store.verify("run-1") is not None
    assert len(store.failures("run-2")) == 1


def test_a_storage_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is not writable"):
        Store(tmp_path / "file" / "results").check_writable()


def test_a_full_disk_fails_the_run_with_a_clear_message_and_leaves_nothing_half_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        store = Store(disk / "results")
        write(store, "run-1")
        with pytest.raises(OSError, match="No space left") as caught, store.writing("run-2") as attempt:
            (attempt.folder / "predictions.parquet").write_bytes(b"\1" * 400_000)
        assert caught.value.errno == errno.ENOSPC
        assert store.done("run-2") is None
        assert store.verify("run-1") is not None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_done_names_every_file_with_its_checksum(tmp_path):
    store = Store(tmp_path)
    write(store)
    mark = json.loads(Path(store.path("runs", "run-1", "DONE")).read_text())
    assert set(mark["files"]) == {"log.txt", "weights/model.bin"}
    assert mark["files"]["log.txt"]["bytes"] == 5
    assert len(mark["files"]["log.txt"]["sha256"]) == 64


@pytest.mark.parametrize("damage", ["shorter", "missing"])
def test_a_survey_sees_a_file_of_another_size_without_reading_it(tmp_path, damage):
    store = Store(tmp_path)
    write(store, "run-1")
    write(store, "run-2")
    place = Path(place_of(store, "log.txt"))
    place.unlink() if damage == "missing" else place.write_bytes(b"hel")
    done, damaged = store.survey(["run-1", "run-2"], verify=False)
    assert (set(done), set(damaged)) == ({"run-2"}, {"run-1"})
    assert "log.txt" in damaged["run-1"]


def test_a_file_in_the_way_of_a_storage_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(StoreError, match=f"not writable: {tmp_path / 'file'} is a file"):
            Store(place).check_place()
    Store(tmp_path / "new" / "results").check_place()
    Store("memory://results").check_place()
    assert Store(tmp_path / "new" / "results").seems_writable()
