"""What object storage adds to the store's promise: requests that fail, machines that share nothing but it."""

import json
import logging
import re
import threading
import time

import fsspec
import pytest

from sweep.errors import StorageError, StoreError
from sweep.storage.filesystems import create_if_absent
from sweep.storage.records import Heartbeat
from sweep.storage.retrying import Patience, RetryingFileSystem, Trouble, trouble_of
from sweep.storage.store import CorruptEntryError, Store
from tests import gcs, s3

URL = "s3://results/sweep"


@pytest.fixture(scope="module")
def endpoint():
    with s3.s3_server() as url:
        s3.make_bucket(url, "results")
        yield url


@pytest.fixture
def proxy(endpoint, monkeypatch, tmp_path):
    """A proxy that misbehaves as told, and nothing stored from another test."""
    with s3.proxy_before(endpoint) as before:
        s3.use(monkeypatch, endpoint)
        fs = fsspec.filesystem("s3")
        if fs.exists("results/sweep"):
            fs.rm("results/sweep", recursive=True)
        s3.use(monkeypatch, before.url)
        monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
        yield before


@pytest.fixture
def impatient(monkeypatch):
    """Tries are made again at once."""
    monkeypatch.setattr(Patience, "delay", lambda self, tries, draw: 0.0)


def write(store: Store, run_id: str = "run-1", **files: bytes) -> str:
    with store.writing(run_id) as attempt:
        for name, content in (files or {"log.txt": b"hello"}).items():
            (attempt.folder / name).write_bytes(content)
    assert attempt.won
    return attempt.uuid


# -- what passes is tried again --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action", ["503 SlowDown", "500 InternalError", "503 ServiceUnavailable", "429 TooManyRequests", "reset"]
)
def test_requests_that_fail_for_a_while_are_made_again(proxy, impatient, caplog, action):
    proxy.faults = [s3.Fault(action, times=12)]
    store = Store(URL)
    with caplog.at_level(logging.WARNING, logger="w2s"):
        write(store)
    assert store.read("run-1", "log.txt") == b"hello"
    assert proxy.faults[0].met == 12
    assert re.search(rf"storage {URL} does not answer \(.+\); it is tried again for up to \d+ s", caplog.text)


@pytest.mark.parametrize("action", ["503 SlowDown", "reset"])
def test_a_storage_that_stays_away_is_a_storage_error_and_no_failure_of_the_run(proxy, monkeypatch, action):
    monkeypatch.setenv("W2S_STORAGE_PATIENCE_SECONDS", "0")
    store = Store(URL)
    proxy.faults = [s3.Fault(action, times=10_000, matches=lambda request: request.method == "PUT")]
    with pytest.raises(StorageError, match="does not answer"):
        write(store)
    proxy.faults = []
    assert store.failures("run-1") == []
    assert store.done("run-1") is None


def test_a_server_that_cannot_be_reached_is_named(proxy, monkeypatch):
    monkeypatch.setenv("W2S_STORAGE_PATIENCE_SECONDS", "0")
    s3.use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=rf"storage '{URL}' does not answer.*127\.0\.0\.1:9"):
        Store(URL).done("run-1")


def test_a_name_that_does_not_resolve_may_do_so_later(monkeypatch):
    monkeypatch.setenv("W2S_STORAGE_PATIENCE_SECONDS", "0")
    s3.use(monkeypatch, "http://no-such-host.invalid:80")
    with pytest.raises(StorageError, match="does not answer"):
        Store(URL).done("run-1")


def test_a_mark_whose_answer_was_lost_was_made_by_this_attempt(proxy, impatient):
    store = Store(URL)
    proxy.faults = [s3.Fault("lost", matches=lambda r: r.method == "PUT" and r.path.endswith("/DONE"))]
    uuid = write(store)
    done = store.done("run-1")
    assert done
    assert done.attempt == uuid
    assert proxy.faults[0].met == 1


def test_marks_are_created_only_if_absent(proxy):
    store = Store(URL)
    store.check_writable()
    write(store)
    (mark,) = [r for r in proxy.requests if r.method == "PUT" and r.path.endswith("/DONE")]
    assert mark.headers.get("If-None-Match") == "*"


def test_a_conflict_of_two_conditional_writes_is_tried_again(proxy, impatient):
    proxy.faults = [s3.Fault("409 ConditionalRequestConflict", times=3, matches=lambda r: r.path.endswith("/DONE"))]
    write(Store(URL))
    assert proxy.faults[0].met == 3


def test_a_server_that_ignores_the_condition_is_refused(endpoint, monkeypatch):
    s3.use(monkeypatch, endpoint)
    store = Store(URL)
    monkeypatch.setattr(
        store.fs.raw, "pipe_file", lambda place, data, mode: type(store.fs.raw).pipe_file(store.fs.raw, place, data)
    )
    with pytest.raises(StoreError, match="If-None-Match"):
        store.check_writable()


def test_a_heartbeat_never_fails_and_is_tried_once(proxy):
    store = Store(URL)
    proxy.faults = [s3.Fault("500 InternalError", times=10_000)]
    begun = time.monotonic()
    store.beat("run-1", Heartbeat("a", "host", 1, 1.0, 0.5))
    store.end_beat("run-1", "a")
    assert time.monotonic() - begun < Patience().seconds  # did not wait for the storage to come back
    assert proxy.faults[0].met <= 2 * 2  # two requests, each with the one quick second try of botocore


def test_waits_double_up_to_a_bound_and_are_spread():
    patience = Patience(first=0.5, longest=20.0)
    assert [patience.delay(tries, 1.0) for tries in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert patience.delay(60, 1.0) == 20.0
    assert patience.delay(3, 0.0) == 1.0


# -- what does not pass is said --------------------------------------------------------------------------------


def test_a_missing_bucket_is_named_by_every_way_in(proxy):
    store = Store("s3://no-such-bucket/sweep")
    for action in (
        store.check_writable,
        store.run_folders,
        lambda: store.done("run-1"),
        lambda: store.survey(["a"], verify=True),
    ):
        with pytest.raises(StoreError, match="there is no bucket 'no-such-bucket'; create it"):
            action()
    assert not fsspec.filesystem("s3").exists("no-such-bucket")


def test_missing_credentials_are_named(proxy, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"no credentials were found .*; set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        Store(URL).check_writable()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("403 AccessDenied", "permission denied at results/sweep/.*the role needs s3:GetObject, s3:PutObject"),
        ("403 InvalidAccessKeyId", "the credentials were not accepted"),
        ("403 SignatureDoesNotMatch", "the credentials were not accepted"),
        ("400 ExpiredToken", "the credentials have expired .*; log in again"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(proxy, action, message):
    proxy.faults = [s3.Fault(action, times=10_000)]
    store = Store(URL)
    with pytest.raises(StorageError, match=message):
        store.check_writable()
    assert proxy.faults[0].met == 1


def test_an_url_without_a_bucket_or_of_an_unknown_kind_is_refused():
    with pytest.raises(StoreError, match="names no bucket; write s3://bucket/folder"):
        Store("s3://")
    with pytest.raises(StoreError, match="storage 'nowhere://x'"):
        Store("nowhere://x")


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (ConnectionResetError(), Trouble.PASSING),
        (TimeoutError(), Trouble.PASSING),
        (PermissionError("no"), Trouble.DENIED),
        (FileExistsError("x"), Trouble.EXISTS),
        (FileNotFoundError("x"), None),
        (OSError("Forbidden: https://storage.googleapis.com/b\nno"), Trouble.DENIED),  # as gcsfs says it
        (ValueError("a mistake"), None),
    ],
)
def test_errors_of_every_backend_are_sorted(error, trouble):
    assert trouble_of(error) == trouble


def test_errors_of_google_are_sorted():
    pytest.importorskip("gcsfs")
    import aiohttp
    from gcsfs.retry import HttpError
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    assert trouble_of(HttpError({"code": 503, "message": "busy"})) == Trouble.PASSING
    assert trouble_of(HttpError({"code": "429", "message": "slowly"})) == Trouble.PASSING
    assert trouble_of(HttpError({"code": 401, "message": "who are you"})) == Trouble.DENIED
    assert trouble_of(DefaultCredentialsError("none")) == Trouble.NO_CREDENTIALS
    assert trouble_of(RefreshError("old")) == Trouble.EXPIRED
    assert trouble_of(aiohttp.ServerDisconnectedError()) == Trouble.PASSING


def test_a_mistake_in_a_program_is_not_taken_for_trouble_with_the_storage():
    class Broken:
        def ls(self, path):
            raise KeyError(path)

    with pytest.raises(KeyError):
        RetryingFileSystem(Broken(), "s3://x").ls("y")


# -- machines that share nothing but the storage ---------------------------------------------------------------


def test_what_another_process_wrote_is_seen_at_once(proxy):
    mine, theirs = Store(URL), Store(URL)
    theirs.fs = RetryingFileSystem(fsspec.filesystem("s3", skip_instance_cache=True), URL)  # as in another process
    assert mine.run_folders() == set()
    assert mine.heartbeats("run-1") == []
    theirs.beat("run-1", Heartbeat("a", "host", 1, 1.0, 0.5))
    assert mine.run_folders() == {"run-1"}
    assert [beat.attempt for beat in mine.heartbeats("run-1")] == ["a"]
    with pytest.raises(RuntimeError), theirs.writing("run-1"):
        raise RuntimeError("why")
    assert [failure.message for failure in mine.failures("run-1")] == ["why"]
    write(theirs)
    assert mine.done("run-1")
    assert mine.fs.exists(mine.path("runs", "run-1", "DONE"))


def test_a_survey_needs_one_request_a_run_and_one_more_to_verify(proxy):
    store = Store(URL)
    ids = [f"run-{i}" for i in range(20)]
    for run_id in ids:
        write(store, run_id, **{f"file-{i}": b"x" * 100 for i in range(5)})
    for verify, per_run in ((False, 1), (True, 2)):
        proxy.requests.clear()
        done, damaged = store.survey(ids, verify=verify)
        assert (set(done), damaged) == (set(ids), {})
        assert len(proxy.requests) <= per_run * len(ids) + 2


def test_an_object_that_was_written_again_is_read_and_compared(proxy):
    store = Store(URL)
    uuid = write(store, **{"log.txt": b"hello"})
    place = store.path("runs", "run-1", "attempts", uuid, "log.txt")
    store.fs.pipe_file(place, b"hello")
    assert store.verify("run-1")
    store.fs.pipe_file(place, b"hullo")
    with pytest.raises(CorruptEntryError, match=r"log\.txt: does not match its checksum"):
        store.verify("run-1")


def test_large_weights_are_uploaded_in_parts_and_fetched_once(proxy, tmp_path):
    store = Store(URL)
    size = 101 << 20  # above the size from which s3fs uploads in parts
    with store.writing("run-1") as attempt:
        (attempt.folder / "weights").mkdir()
        with (attempt.folder / "weights" / "model.safetensors").open("wb") as file:
            file.truncate(size)
    assert any("uploadId" in request.path for request in proxy.requests)
    proxy.requests.clear()
    folder = store.folder("run-1", "weights")
    assert (folder / "model.safetensors").stat().st_size == size
    fetched = [r for r in proxy.requests if r.method == "GET" and "model.safetensors" in r.path]
    proxy.requests.clear()
    assert Store(URL).folder("run-1", "weights") == folder
    assert fetched
    assert not [r for r in proxy.requests if "model.safetensors" in r.path]
    (folder / "model.safetensors").write_bytes(b"")  # as after a power cut
    assert (store.folder("run-1", "weights") / "model.safetensors").stat().st_size == size


def test_weights_changed_on_the_way_are_not_used(proxy):
    store = Store(URL)
    with store.writing("run-1") as attempt:
        (attempt.folder / "weights").mkdir()
        (attempt.folder / "weights" / "model.bin").write_bytes(b"\0" * 100)
    store.fs.pipe_file(store.path("runs", "run-1", "attempts", attempt.uuid, "weights", "model.bin"), b"\1" * 100)
    with pytest.raises(CorruptEntryError, match=r"model\.bin: does not match its checksum"):
        store.folder("run-1", "weights")
    assert not list((store.cache / "fetched" / attempt.uuid).iterdir())


def test_many_fetch_the_same_weights_at_once(proxy):
    store = Store(URL)
    with store.writing("run-1") as attempt:
        (attempt.folder / "weights").mkdir()
        (attempt.folder / "weights" / "model.bin").write_bytes(b"\0" * 100)
    proxy.requests.clear()
    store.parallel(lambda _: store.folder("run-1", "weights"), range(8))
    assert len([r for r in proxy.requests if r.method == "GET" and "model.bin" in r.path]) == 1


# -- marks that are set aside ----------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path, proxy):
    return str(tmp_path / "results") if request.param == "folder" else URL


def damage(store: Store, uuid: str) -> None:
    store.fs.pipe_file(store.path("runs", "run-1", "attempts", uuid, "log.txt"), b"hullo")


def test_a_slow_driver_does_not_set_aside_what_a_fast_one_made_anew(root):
    fast, slow = Store(root), Store(root)
    damage(fast, write(fast))
    for store in (fast, slow):
        assert set(store.survey(["run-1"], verify=True)[1]) == {"run-1"}
    fast.quarantine("run-1")
    uuid = write(fast)
    slow.quarantine("run-1")
    done = slow.verify("run-1")
    assert done
    assert done.attempt == uuid


def test_of_two_that_set_aside_the_same_mark_one_deletes_it(root, monkeypatch):
    fast, slow = Store(root), Store(root)
    damage(fast, write(fast))
    for store in (fast, slow):
        store.survey(["run-1"], verify=True)
    raw = fast._mark("run-1")
    fast.quarantine("run-1")
    uuid = write(fast)
    monkeypatch.setattr(slow, "_mark", lambda run_id: raw)  # it looked before, and only now gets on
    slow.quarantine("run-1")
    done = fast.verify("run-1")
    assert done
    assert done.attempt == uuid


def test_a_mark_left_by_a_driver_that_was_killed_between_is_set_aside_by_the_next(root):
    store = Store(root)
    damage(store, write(store))
    store.survey(["run-1"], verify=True)
    raw = store._mark("run-1")
    store.quarantine("run-1")
    store.fs.pipe_file(store.path("runs", "run-1", "DONE"), raw)  # as if it had not been deleted
    store.quarantine("run-1")
    assert store.done("run-1"), "it may be deleted by the other one at any moment"
    (aside,) = [name for name in store.listing("runs", "run-1") if name.startswith("DONE.damaged-")]
    store.write_object(store.path("runs", "run-1", aside), json.dumps({"time": time.time() - 3600}).encode())
    store.quarantine("run-1")
    assert store.done("run-1") is None


def test_of_many_that_create_at_once_one_succeeds(root):
    store = Store(root)
    store.check_writable()
    place, gate = store.path("runs", "mark"), threading.Barrier(8)

    def create(number: int) -> bool:
        gate.wait()
        return create_if_absent(Store(root), place, str(number).encode())

    won = store.parallel(create, range(8)) if not store.is_local else _at_once(create, 8)
    assert sum(won) == 1
    assert store.fs.cat_file(place) == str(won.index(True)).encode()


def _at_once(function, n: int) -> list:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(function, range(n)))


# -- Google Cloud Storage: gcsfs's own client, before a stand-in for the server --------------------------------


@pytest.fixture
def google(monkeypatch, tmp_path):
    pytest.importorskip("gcsfs")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    with gcs.gcs_server(monkeypatch) as bucket:
        yield bucket


def test_on_gcs_marks_are_created_with_generation_zero(google):
    store = Store("gs://results/sweep")
    store.check_writable()
    uuid = write(store, **{"log.txt": b"hello"})
    (condition,) = [query.get("ifGenerationMatch") for name, query in google.uploads if name.endswith("/DONE")]
    assert condition == "0"
    with store.writing("run-1") as second:
        (second.folder / "log.txt").write_text("late")
    assert not second.won
    done = store.verify("run-1")
    assert done
    assert done.attempt == uuid
    assert store.read("run-1", "log.txt") == b"hello"
    assert store.run_folders() == {"run-1"}
    with pytest.raises(RuntimeError), store.writing("run-2"):
        raise RuntimeError("why")
    assert [failure.message for failure in store.failures("run-2")] == ["why"]
