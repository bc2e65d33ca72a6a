"""`w2s submit`: a spec and its local files go to the head node of a cluster, where `w2s run` becomes a job of Ray.

Everything that can be refused is refused here, before anything is sent. The files travel as the job's working folder,
which Ray unpacks at the same place on every node; the spec's paths are rewritten to it. Nothing secret is sent.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import SpecError, SweepError
from sweep.inputs import gather
from sweep.lockfile import RevisionLock
from sweep.planner import build_plan
from sweep.spec import Sweep, key_of, load_spec, located
from sweep.storage.secrets import STORAGE_CURE, refuse_credentials
from sweep.yamlfile import Location

MOST_BYTES = 400 << 20
"""Ray refuses working folders that pack into more than 512 MiB."""
UPLOAD_SECONDS, START_SECONDS = 900.0, 180.0
STOP_SECONDS = 120
"""What `ray job stop` leaves the sweep to save the states of its runs, before it kills; Ray's own choice is 3."""
GRACE = ("--runtime-env-json", json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}))
JOB_SERVER = "http://127.0.0.1:8265"
"""Where Ray's dashboard takes jobs on the head node; nobody else can reach it there."""


@dataclass(frozen=True)
class LocalFile:
    """A file or folder that a spec names."""

    at: Location
    """Where in the spec."""
    path: Path
    sent_as: str
    """Its path in the job's working folder."""


def submit(args: argparse.Namespace) -> int:
    """Send a spec to a cluster; returns as soon as the job has started.

    Raises:
        SpecError: The spec, or a file that it names, is wrong; nothing was sent.
        SweepError: The cluster is not up, or refuses the job.
    """
    cluster = None if args.cluster is None else cluster_file(args.cluster)
    file = Path(args.spec)
    spec = load_spec(file)
    storage = check_storage(args.storage or spec.storage, file)
    files = [] if args.keep_paths else local_files(spec, file)
    if not args.keep_paths:
        _check_plan(spec, file)
    job = f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    command = entrypoint(file.name, storage, retry_failed=args.retry_failed, only=args.only)
    with tempfile.TemporaryDirectory(prefix="w2s-submit-") as folder:
        stage(file, files, Path(folder))
        if cluster is not None:
            _through_ssh(cluster, Path(folder), job, command)
        else:
            _to_job_server(args.address, Path(folder), job, command)
    print(_how_to_follow(args, job, storage))
    return 0


# -- what is sent ----------------------------------------------------------------------------------------------


def check_storage(storage: str | None, file: Path) -> str:
    """The storage, if every node of a cluster can reach it. Pure.

    Raises:
        SpecError: It is a folder of one machine, or carries credentials, which would be in the job's command.
    """
    advice = "give `storage: s3://bucket/folder` (or gs://), or the full path of a folder that all nodes mount"
    if storage is None:
        raise SpecError(
            f"{file}: storage: is not given, and results/ on the head node would not be seen by others; {advice}"
        )
    try:
        refuse_credentials(storage, STORAGE_CURE)
    except ValueError as error:
        raise SpecError(f"{file}: storage: {error}") from None
    protocol, separator, _ = storage.partition("://")
    if separator and protocol in ("file", "local", "memory"):
        raise SpecError(f"{file}: storage: '{storage}' is one machine's own; {advice}")
    if not separator and not os.path.isabs(storage):
        raise SpecError(f"{file}: storage: '{storage}' is a folder relative to this one; {advice}")
    return storage


def local_files(spec: Sweep, file: Path) -> list[LocalFile]:
    """Files and folders of this machine that a loaded spec names.

    Raises:
        SpecError: One does not exist, or together they are too large to be sent.
    """
    found: list[LocalFile] = []
    for at, name in _named_paths(spec):
        path = Path(name)
        if not path.exists():
            raise located(SpecError(f"{key_of(at)}: no such file or folder: {path}", at), file)
        found.append(LocalFile(at, path, f"sent/{len(found)}/{path.name}"))
    total = sum(_size(item.path) for item in found)
    if total > MOST_BYTES:
        largest = max(found, key=lambda item: _size(item.path))
        raise SpecError(
            f"{file}: its local files are {total / 2**20:,.0f} MiB, and {MOST_BYTES / 2**20:,.0f} MiB can be sent; the "
            f"largest is {key_of(largest.at)}, {largest.path}. Put it on the hub, or into a folder that all nodes "
            "mount at the same path, and submit with --keep-paths"
        )
    return found


def stage(file: Path, files: Sequence[LocalFile], folder: Path) -> None:
    """Write into `folder` what the job needs: the spec with its paths rewritten, its lock file, its local files."""
    for item in files:
        target = folder / item.sent_as
        target.parent.mkdir(parents=True)
        if item.path.is_dir():
            shutil.copytree(item.path, target)
        else:
            shutil.copy(item.path, target)
    text = file.read_text(encoding="utf-8")
    (folder / file.name).write_text(rewritten(text, {item.at: f"./{item.sent_as}" for item in files}), encoding="utf-8")
    lock = file.with_suffix(".lock.json")
    if lock.exists():
        shutil.copy(lock, folder / lock.name)


def rewritten(text: str, values: dict[Location, str]) -> str:
    """YAML text with some of its scalars replaced; comments and everything else stay. Pure.

    Args:
        values: The new text of the scalar at each place. Where a mapping was abbreviated to its main key (a rung that
            is only a model), the place is longer than that in the text.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spans: dict[tuple[int, int], str] = {}
    for at, value in values.items():
        node = _node_at(root, at)
        spans[node.start_mark.index, node.end_mark.index] = "'" + value.replace("'", "''") + "'"
    for (start, end), value in sorted(spans.items(), reverse=True):
        text = text[:start] + value + text[end:]
    return text


def entrypoint(spec: str, storage: str, *, retry_failed: bool = False, only: Sequence[str] = ()) -> str:
    """The command of the job. Pure."""
    words = ["w2s", "run", f"./{spec}", "--storage", storage, "--no-report"]
    words += ["--retry-failed"] if retry_failed else []
    for word in only:
        words += ["--only", word]
    return shlex.join(words)


def _named_paths(spec: Sweep) -> Iterator[tuple[Location, str]]:
    """Every path of this machine in a loaded spec, where they are absolute, with its place."""
    for index, task in enumerate(spec.tasks):
        if task.source == "files":
            for key, paths in (("train", task.train), ("test", task.test)):
                for number, path in enumerate(paths):
                    yield ("tasks", index, key, number), path
        elif task.source == "hub" and os.path.isabs(task.id):
            yield ("tasks", index, "id"), task.id
    for index, rung in enumerate(spec.ladder.rungs):
        model = getattr(rung, "model", None)
        if model is not None and os.path.isabs(model):
            yield ("ladder", "rungs", index, "model"), model
    for number, path in enumerate(getattr(spec.ladder.pretrain.corpus, "files", ())):
        yield ("ladder", "pretrain", "corpus", "files", number), path


def _node_at(node: Any, at: Location) -> yaml.ScalarNode:
    for part in at:
        if isinstance(node, yaml.ScalarNode):
            break
        if isinstance(node, yaml.SequenceNode):
            node = node.value[part]
        else:
            node = next(value for key, value in node.value if key.value == part)
    if not isinstance(node, yaml.ScalarNode):
        raise SpecError(f"{key_of(at)}: a path is needed here")
    return node


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size


def _check_plan(spec: Sweep, file: Path) -> None:
    """What `w2s run` would refuse on the head node is refused here; hub revisions are locked beside the spec."""
    cache = Path(os.environ.get("W2S_CACHE", Path.home() / ".cache" / "w2s")) / "submit"
    try:
        build_plan(spec, gather(spec, cache=cache, lock=RevisionLock.beside(file)))
    except SpecError as error:
        raise located(error, file) from None


# -- where it is sent ------------------------------------------------------------------------------------------


def cluster_file(name: str) -> Path:
    """The cluster file of this name, if it can be one.

    Raises:
        SweepError: It is absent, no YAML, or another file than `ray up` takes.
    """
    path = Path(name)
    begin = "cluster.yaml and examples/cluster/ have some to begin with"
    if not path.is_file():
        raise SweepError(f"--cluster {name}: no such file; {begin}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise SweepError(f"--cluster {name}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    missing = [key for key in ("cluster_name", "provider") if not isinstance(content, dict) or not content.get(key)]
    if not missing:
        return path
    what = "is a sweep, not a cluster" if isinstance(content, dict) and "ladder" in content else "is no cluster file"
    keys = " and no ".join(f"`{key}:`" for key in missing)
    raise SweepError(f"--cluster {name}: this {what}: it has no {keys}; {begin}")


def _through_ssh(cluster: Path, folder: Path, job: str, command: str) -> None:
    """By Ray's own ssh commands, which need no open port but ssh's."""
    there = f".w2s-submit-{job}"
    _ray(["rsync-up", str(cluster), f"{folder}/", f"~/{there}/"], cluster, UPLOAD_SECONDS)
    words = ["ray", "job", "submit", "--address", JOB_SERVER, "--no-wait", "--submission-id", job]
    words += [*GRACE, "--working-dir", there, "--", *shlex.split(command)]
    line = f"cd ~ && {shlex.join(words)}; code=$?; rm -rf {shlex.quote(there)}; exit $code"
    _ray(["exec", str(cluster), line], cluster, START_SECONDS)


def _to_job_server(address: str, folder: Path, job: str, command: str) -> None:
    """To a job server that this machine reaches, such as through `ray dashboard`."""
    words = ["job", "submit", "--address", address, "--no-wait", "--submission-id", job, "--working-dir", str(folder)]
    _ray([*words, *GRACE, "--", *shlex.split(command)], address, START_SECONDS)


def _ray(words: Sequence[str], where: Path | str, seconds: float) -> None:
    """A command of Ray, silent unless it fails."""
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise SweepError(f"{where}: ray {words[0]} did not end within {seconds:g} s") from None
    if done.returncode:
        raise SweepError(explain_failure(str(where), words[0], done.stdout))


def explain_failure(where: str, command: str, said: str) -> str:
    """What a person can do about a Ray command that failed, from what it said. Pure."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "Head node of cluster" in said and "not found" in said:
        return f"{where}: this cluster is not up; ray up {where} starts it"
    if cure := _cloud_credentials(said):
        return f"{where}: {cure}"
    if "Unauthenticated" in said or "AuthenticationError" in said or "InvalidAuthToken" in said or "401" in said:
        return (
            f"{where}: the cluster refuses us: it asks for a token, and there is none here, or another one; copy "
            "~/.ray/auth_token of its head node to this machine and set RAY_AUTH_MODE=token"
        )
    if "Connection refused" in said and command != "job":
        return f"{where}: no job server on the head node; it needs ray[default] and the dashboard, see docs/cluster.md"
    if "Failed to connect to Ray at address" in said or "Connection refused" in said:
        return f"{where}: no job server answers there; ray dashboard CLUSTER.yaml makes a way to the head node's"
    if "ssh: connect" in said or "Connection timed out" in said or "Permission denied" in said:
        line = next(line for line in lines if "ssh:" in line or "timed out" in line or "denied" in line)
        return f"{where}: the head node cannot be reached by ssh: {line}"
    last = next((line for line in reversed(lines) if "Shared connection" not in line), "no reason given")
    return f"{where}: ray {command} failed: {last}"


def _cloud_credentials(said: str) -> str | None:
    """What to do if the provider of the machines does not know us, from what Ray's command said. Pure."""
    aws = "`aws configure`, `aws sso login` or AWS_PROFILE sets some, and `aws sts get-caller-identity` shows them"
    if any(word in said for word in ("NoCredentialsError", "PartialCredentialsError", "Unable to locate credentials")):
        return f"no AWS credentials were found on this machine, which the cluster file needs; {aws}"
    if "ProfileNotFound" in said:
        return (
            f"AWS_PROFILE, or the cluster file, names a profile of AWS credentials that is not on this machine; {aws}"
        )
    if "ExpiredToken" in said or "RequestExpired" in said or "TokenRetrievalError" in said:
        return f"the AWS credentials of this machine have expired; {aws}"
    if "AuthFailure" in said or "InvalidClientTokenId" in said or "UnauthorizedOperation" in said:
        return f"AWS does not accept the credentials of this machine for this; {aws}. docs/cluster.md has the rights"
    if "DefaultCredentialsError" in said or "default credentials were not found" in said:
        return "no Google credentials were found on this machine; `gcloud auth application-default login` makes them"
    if "No module named 'boto3'" in said or "No module named 'googleapiclient'" in said:
        package = "boto3" if "boto3" in said else "google-api-python-client"
        return f"the cluster file needs a package that is not installed here: pip install {package}"
    return None


def _how_to_follow(args: argparse.Namespace, job: str, storage: str) -> str:
    spec, place = shlex.quote(args.spec), shlex.quote(storage)
    if args.cluster is not None:
        cluster = shlex.quote(args.cluster)
        logs = f"ray exec {cluster} 'ray job logs --follow {job}'"
        stop = f"ray exec {cluster} 'ray job stop {job}'"
    else:
        address = shlex.quote(args.address)
        logs = f"ray job logs --address {address} --follow {job}"
        stop = f"ray job stop --address {address} {job}"
    return (
        f"submitted as job {job}; it goes on when this machine is switched off\n"
        f"  progress  w2s status {spec} --storage {place}\n"
        f"  report    w2s report {spec} --storage {place}\n"
        f"  log       {logs}\n"
        f"  stop      {stop}    (submitting again goes on where it stopped)"
    )
