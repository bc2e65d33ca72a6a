"""How long it takes to see where a sweep on object storage stands, against moto's S3 server on this machine.

    python -m benchmarks.storage --runs 1000

The server is slow (milliseconds of CPU a request, one request at a time); what is worth comparing is the number of
requests, and the seconds of CPU that the client itself needs.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from uuid import uuid4

FILES = ("run.json", "metrics.json", "history.parquet", "predictions.parquet", "log.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    from tests.s3 import make_bucket, s3_server, variables

    with s3_server() as endpoint:
        make_bucket(endpoint, "results")
        os.environ.update(variables(endpoint))
        from sweep.gc import find_garbage
        from sweep.store import Store

        store, content = Store("s3://results/sweep"), b"x" * 2000
        entry = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
        ids = [f"run-{i:05d}" for i in range(runs)]

        def make(run_id: str) -> None:
            attempt, files = uuid4().hex, {}
            for name in FILES:
                answer = store.fs.pipe_file(store.path("runs", run_id, "attempts", attempt, name), content)
                files[name] = entry | {"etag": answer["ETag"].strip('"')}
            mark = json.dumps({"attempt": attempt, "files": files}).encode()
            store.fs.pipe_file(store.path("runs", run_id, "DONE"), mark)

        print(f"{runs:,} finished runs, {len(FILES)} files each, load average {os.getloadavg()[0]:.1f}")
        timed("writing them", lambda: store.parallel(make, ids))
        timed("w2s plan, status: which are done", lambda: store.survey(ids, verify=False))
        timed("w2s run: which are done and whole", lambda: store.survey(ids, verify=True))
        timed("w2s gc: one listing, marks", lambda: find_garbage(store))


def timed(what: str, action: Callable[[], Any]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    print(f"{what:<36}{time.perf_counter() - wall:7.1f} s, of the client's CPU {time.process_time() - cpu:5.1f} s")


if __name__ == "__main__":
    main()
