"""One run from store to store: what an interrupted or beaten attempt leaves, and going on from it elsewhere."""

import json
from types import SimpleNamespace

import fsspec
import polars as pl
import pytest

from sweep.errors import StorageError
from sweep.execution.execute import Placement, execute, run_science
from sweep.session import Session
from sweep.storage.gc import delete, find_garbage
from sweep.storage.scratch import STATE_FILE, fetch_state, forget_state, mirrored, scratch_folder
from sweep.storage.store import Store
from tests import s3
from w2s.errors import InterruptedRunError

URL = "s3://results/sweep"


@pytest.fixture(scope="module")
def endpoint():
    with s3.s3_server() as url:
        s3.make_bucket(url, "results")
        yield url


@pytest.fixture
def remote(endpoint, monkeypatch, tmp_path):
    """A fresh storage, seen from machine 1."""
    s3.use(monkeypatch, endpoint)
    fs = fsspec.filesystem("s3")
    if fs.exists("results/sweep"):
        fs.rm("results/sweep", recursive=True)
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "machine 1"))
    return Store(URL)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Gives the storage as another machine sees it."""

    def machine(number: int = 2) -> Store:
        monkeypatch.setenv("W2S_CACHE", str(tmp_path / f"machine {number}"))
        return Store(URL)

    return machine


def nothing(run, store, placement, pulse):
    """A science that computes nothing."""
    return SimpleNamespace(
        metrics={},
        history=pl.DataFrame(),
        predictions=pl.DataFrame({"example_id": ["a"], "split": ["test"], "step": [1], "p": [0.5]}),
        save_weights=None,
        save_activations=None,
    )


def interrupted_at(fraction: float):
    """Real science that is asked to stop when it is so far."""

    def science(run, store, placement, pulse):
        def on_progress(done: float) -> None:
            pulse(done)
            if done >= fraction:
                raise InterruptedRunError("asked to stop, says the test")

        return run_science(run, store, placement, on_progress)

    return science


def noting(fractions: list[float]):
    """Real science; its fractions done are kept."""

    def science(run, store, placement, pulse):
        return run_science(run, store, placement, fractions.append)

    return science


OFTEN = Placement(checkpoint_every_seconds=0.0)


def test_a_run_interrupted_on_one_machine_goes_on_from_the_storage_on_another(tiny, tmp_path, remote, elsewhere):
    plan = Session.open(str(tiny()), str(tmp_path / "results")).plan
    runs = [run for run in plan.runs.values() if run.rung == "d4" and run.kind in ("pretrain", "ground_truth")]
    alone = Store(tmp_path / "results")
    for run in runs:
        fresh: list[float] = []
        execute(run, alone, OFTEN, noting(fresh))
        with pytest.raises(InterruptedRunError):
            execute(run, remote, OFTEN, interrupted_at(0.5))
        left = remote.listing("runs", run.run_id)
        assert list(left) == [f"scratch/{STATE_FILE}"]  # no failure, no attempt, no heartbeat
        fractions: list[float] = []
        there = elsewhere()
        assert execute(run, there, OFTEN, noting(fractions))
        assert fresh[0] < 0.4 < fractions[0]
        assert fractions == fresh[-len(fractions) :]  # step by step what was left
        done, same = there.done(run.run_id), alone.done(run.run_id)
        assert done
        assert same
        results = [name for name in same.files if name.startswith(("weights/", "predictions"))]
        assert results
        assert {name: done.files[name]["sha256"] for name in results} == {n: same.files[n]["sha256"] for n in results}
        assert not [name for name in there.listing("runs", run.run_id) if name.startswith(("scratch/", "alive/"))]


def test_an_interrupted_run_in_a_folder_leaves_its_state_alone(tmp_path):
    store = Store(tmp_path / "results")

    def science(run, store, placement, pulse):
        folder = scratch_folder(store, run.run_id)
        folder.mkdir(parents=True)
        (folder / STATE_FILE).write_bytes(b"half")
        raise InterruptedRunError("asked to stop")

    with pytest.raises(InterruptedRunError):
        execute(a_run("run-1"), store, Placement(), science)
    assert list(store.listing("runs", "run-1")) == [f"scratch/{STATE_FILE}"]
    assert store.failures("run-1") == []
    assert not list((tmp_path / "results" / "runs" / "run-1" / "attempts").iterdir())


def a_run(run_id: str):
    description = {"run_id": run_id, "pretrain_flops": 0.0}
    return SimpleNamespace(
        run_id=run_id, label=run_id, describe=lambda: dict(description), spec=None, keep_weights=False
    )


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path, remote):
    return Store(tmp_path / "results") if request.param == "folder" else remote


def test_of_two_attempts_at_once_one_becomes_the_result_and_both_know(store):
    def science(run, store, placement, pulse):
        assert execute(run, store, placement, nothing)  # another driver is faster
        return nothing(run, store, placement, pulse)

    assert not execute(a_run("run-1"), store, Placement(), science)
    assert store.verify("run-1")
    (garbage,) = find_garbage(store)
    assert garbage.why == "refused attempt"
    delete(store, [garbage])
    assert find_garbage(store) == []
    assert store.verify("run-1")
    assert store.heartbeats("run-1") == []


def test_an_attempt_has_a_heartbeat_until_its_last_file_is_there(store, monkeypatch):
    """Without one, `w2s gc` of another machine could take it for abandoned while it is uploaded."""
    seen = []
    commit = Store._commit

    def watched(self, run_id, uuid, folder, place):
        while not (beats := self.heartbeats(run_id)):
            pass
        seen.append([beat.attempt for beat in beats] == [uuid])
        assert find_garbage(self) == []
        return commit(self, run_id, uuid, folder, place)

    monkeypatch.setattr(Store, "_commit", watched)
    assert execute(a_run("run-1"), store, Placement(), nothing)
    assert seen == [True]


def test_gc_removes_states_of_finished_runs_and_no_others(store):
    assert execute(a_run("run-1"), store, Placement(), nothing)
    for run_id in ("run-1", "run-2"):
        store.write_object(store.path("runs", run_id, "scratch", STATE_FILE), b"state")
    (garbage,) = find_garbage(store)
    assert (garbage.why, garbage.bytes) == ("scratch of a finished run", 5)
    assert garbage.path == store.path("runs", "run-1", "scratch")
    delete(store, [garbage])
    assert f"run-2/scratch/{STATE_FILE}" in store.listing("runs")


def test_an_attempt_that_may_just_have_begun_is_no_garbage(store):
    place = store.path("runs", "run-1", "attempts", "a", "log.txt")
    store.write_object(place, b"begun")
    assert find_garbage(store) == []


# -- states on object storage ----------------------------------------------------------------------------------


def save(store: Store, content: bytes) -> None:
    """As `w2s.resume.save_state` does."""
    from w2s.caches import appearing_whole

    with appearing_whole(scratch_folder(store, "run-1") / STATE_FILE) as temporary:
        temporary.write_bytes(content)


def stored(store: Store) -> bytes:
    return store.fs.cat_file(store.path("runs", "run-1", "scratch", STATE_FILE))


def here(store: Store) -> bytes | None:
    file = scratch_folder(store, "run-1") / STATE_FILE
    return file.read_bytes() if file.exists() else None


def crash(store: Store, *contents: bytes) -> None:
    """A run saves these and dies; the last of them is copied all the same, as on a polite end."""

    def run() -> None:
        with mirrored(store, "run-1"):
            for content in contents:
                save(store, content)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()


def test_the_name_of_the_state_is_that_of_the_science():
    from w2s import resume

    assert resume.STATE_FILE == STATE_FILE


def test_states_are_copied_while_the_run_goes_on(remote, elsewhere):
    with mirrored(remote, "run-1"):
        for content in (b"one", b"two"):
            save(remote, content)
            while (
                not remote.fs.exists(remote.path("runs", "run-1", "scratch", STATE_FILE)) or stored(remote) != content
            ):
                pass
    there = elsewhere()
    fetch_state(there, "run-1", shared=False)
    assert here(there) == b"two"


@pytest.mark.parametrize("shared", [False, True])
def test_a_machine_that_saw_the_run_before_fetches_what_others_did_since(remote, elsewhere, shared):
    crash(remote, b"one")
    there = elsewhere()
    fetch_state(there, "run-1", shared=shared)
    crash(there, b"two", b"three")
    back = elsewhere(1)
    assert here(back) == b"one"
    fetch_state(back, "run-1", shared=shared)
    assert here(back) == b"three"


def test_a_state_that_was_not_copied_yet_is_used_here_but_not_where_ranks_must_agree(remote):
    crash(remote, b"one")
    save(remote, b"two")  # and was killed before it was copied
    fetch_state(remote, "run-1", shared=False)
    assert here(remote) == b"two"
    fetch_state(remote, "run-1", shared=True)
    assert here(remote) == b"one"
    forget_state(remote, "run-1")
    save(remote, b"two")
    fetch_state(remote, "run-1", shared=False)
    assert here(remote) == b"two"
    fetch_state(remote, "run-1", shared=True)
    assert here(remote) is None


def test_ranks_of_one_machine_fetch_at_once_without_clashing(remote, elsewhere):
    crash(remote, b"x" * 100_000)
    there = elsewhere()
    there.parallel(lambda _: fetch_state(there, "run-1", shared=True), range(8))
    assert here(there) == b"x" * 100_000
    assert sorted(file.name for file in scratch_folder(there, "run-1").iterdir()) == [".stored.json", STATE_FILE]


def test_a_state_that_cannot_be_copied_or_fetched_does_not_end_a_run(endpoint, remote, elsewhere, monkeypatch):
    crash(remote, b"one")
    monkeypatch.setenv("W2S_STORAGE_PATIENCE_SECONDS", "0")
    with s3.proxy_before(endpoint) as proxy:
        s3.use(monkeypatch, proxy.url)
        there = elsewhere()
        proxy.faults = [s3.Fault("403 AccessDenied", times=10_000)]
        fetch_state(there, "run-1", shared=False)
        assert here(there) is None
        with pytest.raises(StorageError):
            fetch_state(there, "run-1", shared=True)
        crash(there, b"two")
        proxy.faults = []
        assert stored(there) == b"one"


# -- failures of the storage are not failures of the run ------------------------------------------------------


def test_a_failure_of_the_storage_never_gives_a_run_up(tiny, tmp_path):
    from sweep.state import State, stand

    session = Session.open(str(tiny()), str(tmp_path / "results"))
    run_id = next(iter(session.plan.runs))
    for _ in range(3):
        with pytest.raises(StorageError), session.store.writing(run_id):
            raise StorageError("storage 's3://x' does not answer")
    assert [failure.is_of_storage for failure in session.store.failures(run_id)] == [True] * 3
    assert stand(session.plan, session.store)[run_id].state == State.FAILED
    for _ in range(2):
        with pytest.raises(RuntimeError), session.store.writing(run_id):
            raise RuntimeError("loss is NaN")
    standing = stand(session.plan, session.store)[run_id]
    assert standing.state == State.GIVEN_UP
    assert "2 attempts" in standing.reason


def test_a_store_crosses_to_a_worker(remote):
    import pickle

    assert pickle.loads(pickle.dumps(remote)).root == URL
    error = pickle.loads(pickle.dumps(StorageError("storage 'x': no")))
    assert (type(error), str(error)) == (StorageError, "storage 'x': no")


def test_a_mark_tells_etags_only_where_there_are_some(store):
    assert execute(a_run("run-1"), store, Placement(), nothing)
    done = json.loads(store.fs.cat_file(store.path("runs", "run-1", "DONE")))
    assert all(("etag" in entry) != store.is_local for entry in done["files"].values())
