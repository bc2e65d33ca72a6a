"""A study survives its drivers: no candidate is lost or asked twice, and the search goes on as if nothing had been."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import optuna
import pytest
from optuna.storages.journal import JournalFileSymlinkLock

from sweep.errors import SpecError, StoreError, SweepError
from sweep.storage.store import Store
from sweep.tuning import storage as storage_module
from sweep.tuning.block import Tune
from sweep.tuning.storage import journal_of, shown
from sweep.tuning.study import Study

SPACE = {
    "method.max_weight": {"low": 0.0, "high": 1.0},
    "method.labels": ["soft", "hard"],
    "method.warmup": {"low": 0.0, "high": 0.6, "when": {"method.labels": ["soft"]}},
    "method.chain": {"subset": ["d8", "d16"]},
    "finetune.epochs": {"low": 1, "high": 4},
}
FINITE = {"method.labels": ["soft", "hard"], "finetune.epochs": {"low": 1, "high": 3}}
NUMBERS = {"method.max_weight": {"low": 0.0, "high": 1.0}, "finetune.epochs": {"low": 1, "high": 4}}
DEFAULT = {
    "method.max_weight": 0.5,
    "method.labels": "hard",
    "method.chain": [],
    "finetune.epochs": 2,
}
MAXIMIZE = ["maximize"]


def block(space=None, **changes) -> Tune:
    """A `tune:` block; random by default, since TPE takes its time."""
    fields = {"method": "confidence", "sampler": "random", "fresh": {"seeds": [7]}, "budget": {"trials": 9}}
    return Tune.model_validate({**fields, "space": space or SPACE, **changes})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def opened(store, tune=None, directions=MAXIMIZE, name="s", **more) -> Study:
    return Study.open(store, name, tune or block(), directions=directions, **more)


def score(params) -> float:
    """Higher with much weight, soft labels and a chain."""
    return (
        params["method.max_weight"]
        + 0.5 * (params["method.labels"] == "soft")
        + 0.1 * len(params["method.chain"])
        - params.get("method.warmup", 0.0)
    )


def search(study: Study, n: int) -> list[dict]:
    """Ask and tell one candidate after the other."""
    found = []
    for _ in range(n):
        asked = study.ask()
        assert asked
        found.append(asked.params)
        study.tell(asked.number, [score(asked.params)], "complete")
    return found


# -- asking and telling ----------------------------------------------------------------------------------------


def test_candidates_are_told_and_read_back(store):
    with opened(store) as study:
        asked = study.ask()
        assert asked
        assert (asked.number, asked.adopted) == (0, False)
        assert ("method.warmup" in asked.params) == (asked.params["method.labels"] == "soft")
        study.note(0, scores=[0.5], flops=1e12)
        study.note(0, scores=[0.5, 0.7])
        study.tell(0, [0.6], "complete", reason="all instances")
        failed = study.ask()
        assert failed
        study.tell(failed.number, None, "failed", reason="out of memory")
        running = study.ask()
        assert running
    first, second, third = opened(store, read_only=True).trials()
    assert (first.params, first.state, first.values) == (asked.params, "complete", (0.6,))
    assert first.attrs == {"scores": [0.5, 0.7], "flops": 1e12, "reason": "all instances"}
    assert first.started
    assert first.ended
    assert time.time() - 60 < first.started <= first.ended <= time.time()
    assert (second.params, second.state, second.values) == (failed.params, "failed", None)
    assert (third.state, third.values, third.ended) == ("running", None, None)


def test_a_pruned_candidate_keeps_what_it_had(store):
    with opened(store) as study:
        for number, values in enumerate([[0.3], None]):
            assert study.ask()
            study.tell(number, values, "pruned", step=4, reason="worse than candidate 7")
        assert [trial.values for trial in study.trials()] == [(0.3,), None]
        assert study.trials()[0].attrs == {"reason": "worse than candidate 7"}


def test_values_that_are_no_numbers_are_refused_and_the_candidate_stays_under_way(store):
    with opened(store) as study:
        assert study.ask()
        for values in ([float("nan")], [0.1, 0.2], None):
            with pytest.raises(ValueError, match="candidate 0: 1 finite values are needed"):
                study.tell(0, values, "complete")
        study.tell(0, [0.1], "complete")
        with pytest.raises(ValueError, match="candidate 0 is not under way here; there are none"):
            study.tell(0, [0.1], "complete")
        with pytest.raises(ValueError, match="candidate 7 is not under way"):
            study.note(7, flops=1.0)
        assert [trial.values for trial in study.trials()] == [(0.1,)]


def test_the_default_configuration_is_asked_first_and_once(store):
    with opened(store) as study:
        assert not study.enqueue({**DEFAULT, "method.max_weight": 7.0})  # not in the space
        assert study.enqueue(DEFAULT)
        assert study.trials() == []
    with opened(store) as study:  # killed before the first question: it still waits, and only once
        assert not study.enqueue(DEFAULT)
        assert search(study, 1) == [DEFAULT]
        assert search(study, 1) != [DEFAULT]
        assert not study.enqueue(DEFAULT)


def test_several_objectives(store):
    directions = ["maximize", "minimize"]
    with opened(store, block(sampler="tpe", minimize_flops=True), directions) as study:
        for number in range(14):
            asked = study.ask()
            assert asked
            if number == 5:
                study.tell(number, [0.1, 3.0], "pruned", step=2)
            else:
                study.tell(number, [score(asked.params), asked.params["finetune.epochs"]], "complete")
        assert study.trials()[5].values == (0.1, 3.0)
        # the cost is nothing but the epochs
        assert next(iter(study.importances(1))) == "finetune.epochs"
    with pytest.raises(SweepError, match=r"has the objectives maximize, minimize, the spec asks for maximize;"):
        opened(store)


# -- finite spaces ---------------------------------------------------------------------------------------------


def test_a_grid_is_asked_whole_each_once_whatever_happens_in_between(store):
    tune = block(FINITE, sampler="grid")
    found = []
    with opened(store, tune) as study:
        study.enqueue({"method.labels": "hard", "finetune.epochs": 2})
        for number in range(2):
            asked = study.ask()
            assert asked
            found.append(asked.params)
            if number == 0:
                study.tell(0, [1.0], "complete")
    assert found[0] == {"method.labels": "hard", "finetune.epochs": 2}
    with opened(store, tune) as study:  # candidate 1 was left
        (left,) = study.adopt()
        assert (left.number, left.params) == (1, found[1])
        while asked := study.ask():
            found.append(asked.params)
            study.tell(asked.number, None, "failed")
    key = lambda params: (params["method.labels"], params["finetune.epochs"])  # noqa: E731
    assert sorted(map(key, found)) == [(labels, epochs) for labels in ("hard", "soft") for epochs in (1, 2, 3)]


def test_a_search_ends_when_a_finite_space_has_been_asked_whole(store):
    with opened(store, block(FINITE)) as study:
        found = set()
        for _ in range(500):
            asked = study.ask()
            if asked is None:
                break
            found.add(json.dumps(asked.params))
            study.tell(asked.number, [0.0], "complete")
        assert asked is None
        assert len(found) == 6


# -- kills -----------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
import optuna
sys.path.insert(0, {here!r})
from test_tuning_study import *
store = Store(sys.argv[1])
study = opened(store, block(sampler=sys.argv[2]))
search(study, int(sys.argv[3]))
after = int(sys.argv[4])  # suggestions; -1: all of them
if after >= 0:
    draw, drawn = optuna.Trial._suggest, []
    def cut(self, *args):
        if len(drawn) == after:
            os._exit(9)
        drawn.append(args)
        return draw(self, *args)
    optuna.Trial._suggest = cut
study.ask()
os._exit(9)
"""


def killed(store: Store, sampler: str, told: int, after: int) -> None:
    """A driver that tells `told` candidates and dies in the next one, without a word."""
    code = KILLED.format(here=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, store.root, sampler, str(told), str(after)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize(
    ("sampler", "told", "after"),
    [
        ("random", 3, -1),  # between ask and tell
        ("random", 2, 2),  # between two suggestions
        ("tpe", 12, 3),  # the same where parameters are modelled jointly
    ],
)
def test_a_killed_search_goes_on_with_the_very_candidates_of_one_that_was_not(store, tmp_path, sampler, told, after):
    with opened(Store(tmp_path / "whole"), block(sampler=sampler)) as study:
        whole = search(study, told + 4)
    killed(store, sampler, told, after)
    with opened(store, block(sampler=sampler)) as study:
        before = study.trials()
        assert [trial.state for trial in before] == ["complete"] * told + ["running"]
        assert bool(before[-1].params) == (after < 0)
        (left,) = study.adopt()
        assert left.adopted
        assert left.number == told
        study.tell(left.number, [score(left.params)], "complete")
        assert study.adopt() == []
        search(study, 3)
        assert [trial.params for trial in study.trials()] == whole
        assert [trial.number for trial in study.trials()] == list(range(told + 4))


def test_a_driver_killed_by_the_system_is_followed_at_once(store):
    code = KILLED.format(here=str(Path(__file__).parent)).replace("os._exit(9)\n", "print('up', flush=True); input()\n")
    driver = subprocess.Popen(
        [sys.executable, "-c", code, store.root, "random", "1", "-1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin
    assert driver.stdout
    try:
        assert driver.stdout.readline() == "up\n"
        with pytest.raises(
            SweepError, match=rf"study 's' is driven by process {driver.pid} on .*, seen \d+ s ago; wait"
        ):
            opened(store)
        assert len(opened(store, read_only=True).trials()) == 2  # looking is free
        driver.send_signal(signal.SIGKILL)
        opened_at_once = None
        while opened_at_once is None:  # not reaped yet: a zombie is gone all the same
            try:
                opened_at_once = opened(store)
            except SweepError:
                assert Path(f"/proc/{driver.pid}").exists()
        assert [asked.number for asked in opened_at_once.adopt()] == [1]
    finally:
        driver.kill()
        driver.wait()
        driver.stdin.close()
        driver.stdout.close()


def write_driver(store, **changes) -> Path:
    place = Path(store.path("tuning", "s", "driver.json"))
    place.parent.mkdir(parents=True, exist_ok=True)
    record = {"host": socket.gethostname(), "pid": os.getpid(), "born": None, "time": time.time(), "token": "x"}
    place.write_text(json.dumps(record | changes))
    return place


def test_a_driver_on_another_machine_holds_for_a_minute_without_a_sign(store):
    write_driver(store, host="far.example", pid=1, time=time.time() - 50)
    with pytest.raises(SweepError, match=r"process 1 on far\.example, seen 5\d s ago"):
        opened(store)
    write_driver(store, host="far.example", pid=1, time=time.time() - 70)
    opened(store).close()


def test_a_process_number_given_anew_is_another_process(store):
    parent = os.getppid()
    write_driver(store, pid=parent)
    with pytest.raises(SweepError, match=f"driven by process {parent}"):
        opened(store)
    if Path("/proc/self/stat").exists():
        write_driver(store, pid=parent, born="1")
        opened(store).close()


def test_a_driver_that_was_taken_over_stops_and_leaves_the_other_alone(store):
    study = opened(store)
    study.beat()
    place = write_driver(store, host="far.example", pid=1)
    with pytest.raises(SweepError, match=r"driven by process 1 on far\.example.*took it over"):
        study.beat()
    study.close()
    assert place.exists()


def test_closing_frees_the_study(store):
    study = opened(store)
    place = Path(store.path("tuning", "s", "driver.json"))
    before = json.loads(place.read_text())
    study.beat()
    assert json.loads(place.read_text())["time"] >= before["time"]
    study.close()
    assert not place.exists()


def test_a_half_written_line_is_cut_and_what_it_said_had_not_happened(store):
    with opened(store) as study:
        search(study, 2)
    journal = journal_of(store, "s")
    whole = journal.read_bytes()
    last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
    assert json.loads(last)["values"]  # the end of candidate 1
    journal.write_bytes(whole[: -len(last) // 2])
    assert [trial.state for trial in opened(store, read_only=True).trials()] == ["complete", "running"]
    with opened(store) as study:
        (left,) = study.adopt()
        study.tell(left.number, [0.5], "complete")
        search(study, 1)
    assert [trial.state for trial in opened(store).trials()] == ["complete"] * 3


def test_a_journal_torn_in_its_first_line_is_begun_anew(store):
    journal = journal_of(store, "s")
    journal.parent.mkdir(parents=True)
    journal.write_bytes(b'{"op_code":0,"wor')
    with opened(store) as study:
        search(study, 1)


def test_a_damaged_journal_is_named_with_its_line_and_left_alone(store):
    with opened(store) as study:
        search(study, 1)
    journal = journal_of(store, "s")
    lines = journal.read_bytes().splitlines(keepends=True)
    for damaged, line in (
        (b"".join([lines[0], b"garbage\n", *lines[1:]]), " in line 2"),
        (b"something else", " in line 1"),
    ):
        journal.write_bytes(damaged)
        with pytest.raises(StoreError, match=rf"journal\.log: is damaged{line}; move it away"):
            opened(store)
        assert journal.read_bytes() == damaged


def test_the_lock_of_a_killed_process_does_not_hold_up_the_next_one(store, monkeypatch):
    opened(store).close()
    journal = journal_of(store, "s")
    lock = Path(f"{journal}.lock")
    lock.symlink_to(journal)

    class Impatient(JournalFileSymlinkLock):
        """Optuna's own waits for half a minute."""

        def acquire(self):
            assert not lock.is_symlink()
            return super().acquire()

    monkeypatch.setattr(storage_module, "JournalFileSymlinkLock", Impatient)
    with opened(store) as study:
        search(study, 1)
    assert not lock.is_symlink()


# -- one search, one study -------------------------------------------------------------------------------------


def test_a_search_is_extended_with_more_trials_and_another_sampler(store):
    with opened(store) as study:
        search(study, 2)
    with opened(store, block(sampler="tpe", seed=5, budget={"trials": 40})) as study:
        search(study, 2)
        assert [trial.number for trial in study.trials()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "basis", "what"),
    [
        ({"metric": "confidence"}, {"pairs": [["a", "b"]]}, "metric"),
        ({"objective": "oracle"}, {"pairs": [["a", "b"]]}, "metric"),
        ({"instances": {"seeds": [0]}}, {"pairs": [["a", "b"]]}, "instances"),
        ({"space": FINITE}, {"pairs": [["a", "b"]]}, "space"),
        ({}, {"pairs": [["a", "c"]]}, "pairs"),
        ({"method": "naive"}, {}, "method and another pairs"),
    ],
)
def test_a_study_of_something_else_is_not_gone_on_with(store, changes, basis, what):
    with opened(store, basis={"pairs": (("a", "b"),)}) as study:
        search(study, 1)
    with pytest.raises(SweepError, match=f"study 's' was begun with another {what}: its scores"):
        opened(store, block(**changes), basis=basis)
    with opened(store, block(objective="both"), basis={"pairs": [["a", "b"]]}) as study:  # no refusal kept it
        assert len(study.trials()) == 1


def test_studies_of_one_store_are_apart(store):
    with opened(store, name="weak") as one, opened(store, name="oracle") as other:
        assert search(one, 2) == search(other, 2)
        assert one.location != other.location


def test_what_optuna_itself_opens_has_the_candidates(store):
    """As optuna-dashboard does."""
    study = opened(store)
    found = search(study, 3)
    backend = optuna.storages.journal.JournalFileBackend(study.location)
    there = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    assert [trial.user_attrs["params"] for trial in there.trials] == found
    assert [trial.value for trial in there.trials] == [score(params) for params in found]


def test_looking_makes_nothing(store):
    with pytest.raises(StoreError, match=r"there is no such study; `w2s tune` makes it"):
        opened(store, read_only=True)
    assert not Path(store.root).exists()


# -- samplers --------------------------------------------------------------------------------------------------


def test_another_seed_asks_other_candidates(store, tmp_path):
    with opened(store) as one, opened(Store(tmp_path / "other"), block(seed=1)) as other:
        assert search(one, 2) != search(other, 2)


def test_several_candidates_at_once_are_different_ones(store):
    with opened(store, block(sampler="tpe")) as study:
        search(study, 11)
        asked = [study.ask() for _ in range(4)]
        assert len({json.dumps(one.params) for one in asked if one}) == 4


@pytest.mark.parametrize(("sampler", "package"), [("cmaes", "cmaes"), ("gp", "torch")])
def test_a_sampler_without_its_package_says_what_to_install(store, monkeypatch, sampler, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(SpecError, match=f"{sampler} needs the package {package}: pip install {package}"):
        opened(store, block(NUMBERS, sampler=sampler))
    assert not Path(store.root).exists()


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_every_sampler_draws_different_candidates_of_the_space(store, sampler):
    tune = block(NUMBERS, sampler=sampler)
    study, found = opened(store, tune), []
    for _ in range(8):
        asked = study.ask()
        assert asked
        found.append(asked.params)
        study.tell(asked.number, [asked.params["method.max_weight"]], "complete")
    assert len(found) == len({json.dumps(params, sort_keys=True) for params in found}) == 8
    assert all(tune.space.contains(params) for params in found)


def test_cmaes_knows_one_objective(store, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SpecError, match="cmaes knows only one objective"):
        opened(store, block(NUMBERS, sampler="cmaes"), ["maximize", "minimize"])


def test_gp_asks_on_after_its_first_candidates(store):
    pytest.importorskip("torch")
    with opened(store, block(FINITE, sampler="gp", seed=3)) as study:
        for number in range(11):
            asked = study.ask()
            assert asked
            study.tell(number, [asked.params["finetune.epochs"]], "complete")


# -- importances -----------------------------------------------------------------------------------------------


def test_importances_find_what_matters(store):
    with opened(store) as study:
        for _ in range(40):
            asked = study.ask()
            assert asked
            study.tell(asked.number, [-abs(asked.params["method.max_weight"] - 0.8)], "complete")
        found = study.importances()
    assert next(iter(found)) == "method.max_weight"
    assert found["method.max_weight"] > 0.5
    assert sum(found.values()) == pytest.approx(1)
    assert {"method.chain[d8]", "method.warmup"} <= found.keys()
    assert study.importances_note == ""


def test_importances_that_cannot_be_told_say_why(store):
    with opened(store) as study:
        search(study, 3)
        assert study.importances() == {}
        assert study.importances_note == "3 complete candidates; 10 are needed"
        for _ in range(10):
            asked = study.ask()
            assert asked
            study.tell(asked.number, None, "failed")
        assert study.importances_note.startswith("3 complete")
    with opened(store, name="flat") as study:
        for number in range(10):
            study.ask()
            study.tell(number, [0.5], "complete")
        assert study.importances() == {}
        assert study.importances_note == "all candidates have the same value"


# -- storages --------------------------------------------------------------------------------------------------


def test_a_database_holds_a_study_too(store, tmp_path):
    tune = block(study_storage=f"sqlite:///{tmp_path}/study.db")
    with opened(store, tune) as study:
        first = search(study, 2)
        left = study.ask()
        assert left
    with opened(store, tune) as study:
        assert [(asked.number, asked.params) for asked in study.adopt()] == [(2, left.params)]
        assert [trial.params for trial in study.trials()] == [*first, left.params]
    with opened(Store(tmp_path / "other")) as study:
        assert search(study, 2) == first  # as with the journal
    assert not journal_of(store, "s").exists()


def test_a_remote_store_needs_a_database(tmp_path):
    remote = Store("memory://results")
    try:
        with pytest.raises(SpecError, match=r"tune: the results are at 'memory://results'.*study_storage") as caught:
            opened(remote)
        assert caught.value.at == ("tune", "study_storage")
        tune = block(study_storage=f"sqlite:///{tmp_path}/study.db")
        with opened(remote, tune) as study:
            search(study, 1)
            study.beat()
            assert remote.fs.exists(remote.path("tuning", "s", "driver.json"))
        assert not remote.fs.exists(remote.path("tuning", "s", "driver.json"))
    finally:
        fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
        ("nonsense", "(Could not parse|Expected string or URL)"),
        ("postgresql+psycopg2://me:secret@localhost:1/x", "pip install psycopg2"),
        ("abcsql://me:secret@localhost/x", "abcsql"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(store, url, reason):
    with pytest.raises(SweepError, match=rf"tune\.study_storage: '.*' cannot be opened: .*{reason}") as caught:
        opened(store, block(study_storage=url))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(store.path("tuning", "s", "driver.json")).exists()


def test_passwords_are_not_shown():
    assert shown("postgresql://me:s3@cr:et@host/db") == "postgresql://me:***@host/db"
    assert shown("sqlite:////folder/study.db") == "sqlite:////folder/study.db"


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(StoreError, match="give another `storage`"):
        opened(Store(tmp_path / "results"))
