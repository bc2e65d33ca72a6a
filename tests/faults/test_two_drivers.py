"""Two `w2s run` on one storage at the same moment, in a folder and on an S3 API server on loopback."""

import subprocess

import pytest

from sweep.storage.store import Store
from tests.end_to_end.drive import W2S, Results, assert_same_results, environment
from tests.end_to_end.test_kill import kill, tree

pytestmark = pytest.mark.slow
URL = "s3://results/tiny"
DEADLINE_SECONDS = 500.0
"""For two sweeps at once that take half a minute on an idle machine."""


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_two_drivers_at_once_spoil_nothing(undisturbed, tiny, tmp_path, server, where):
    storage = URL if where == "s3" else str(tmp_path / "results")
    spec = tiny()
    words = [W2S, "run", str(spec), "--storage", storage, "--no-report"]
    drivers = [
        subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )
        for _ in range(2)
    ]
    try:
        outputs = [driver.communicate(timeout=DEADLINE_SECONDS)[0] for driver in drivers]
    finally:  # after a timeout, nothing of them stays
        for driver in drivers:
            if driver.poll() is None:
                family = tree(driver)
                driver.kill()
                kill(family)
    assert [driver.returncode for driver in drivers] == [0, 0], outputs
    results = Results(spec, storage)  # type: ignore[arg-type]
    assert_same_results(undisturbed[0], results)
    assert any("also finished by another driver" in output for output in outputs) == bool(_refused(storage))
    store = Store(storage)
    done, damaged = store.survey(results.session.plan.runs, verify=True)
    assert (len(done), damaged) == (13, {})
    attempts = {name.split("/")[2] for name in store.listing("runs") if "/attempts/" in name}
    assert attempts == {mark.attempt for mark in done.values()} | _refused(storage)
    assert not [name for name in store.listing("runs") if "/alive/" in name]


def _refused(storage: str) -> set[str]:
    return {name.split("/")[2] for name in Store(storage).listing("runs") if name.endswith("/refused.json")}
