"""Several hosts on one machine, each with its own network, processes, host name, /tmp and home: what `ray up` takes for
machines reached by SSH.

A host is a network namespace on a bridge, and one process tree in PID, mount, UTS and IPC namespaces of its own whose
first process is Debian's sshd. Nothing outside these namespaces is touched; all names begin with `PREFIX`.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PREFIX = "w2st"
BRIDGE = f"{PREFIX}br"
SUBNET = "10.213.77"
LAUNCHER = f"{SUBNET}.1"
"""Address of the machine itself on the bridge, from which hosts are reached and where they find the storage."""
_LOCK = Path("/tmp") / f"{PREFIX}.lock"
_TOOLS = ("ip", "unshare", "nsenter", "rsync", "ssh", "ssh-keygen", "sshd", "mount")
_INIT = """\
set -e
hostname {name}
mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
mount --bind {folder}/hosts /etc/hosts
{binds}
mount --rbind {folder}/root /root
cp {folder}/sshd_config /run/sshd_config
cp {folder}/host_key /run/host_key
chmod 600 /run/host_key
mount --rbind {folder}/tmp /tmp
cd /
exec env -i HOME=/root PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin {sshd} -D -e -f /run/sshd_config
"""
_SSHD = """\
HostKey /run/host_key
ListenAddress {address}
PidFile none
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
PrintMotd no
MaxStartups 100
MaxSessions 100
"""


def why_not() -> str | None:
    """Why no hosts can be made here; None if they can."""
    if sys.platform != "linux":
        return "needs Linux network namespaces"
    if os.geteuid() != 0:
        return "needs root (network namespaces, mounts)"
    missing = [tool for tool in _TOOLS if _which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (on Debian: apt install openssh-server openssh-client rsync iproute2)"
    tried = _run("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true", check=False)
    if tried.returncode:
        return f"needs permission to make namespaces: {tried.stderr.strip()}"
    return None


@dataclass
class Host:
    """One simulated machine."""

    name: str
    address: str
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def home(self) -> Path:
        """Its /root, as seen from outside; what is powered off and on again finds it as it was."""
        return self.folder / "root"

    @property
    def is_on(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def power_on(self) -> None:
        """Start its sshd in namespaces of its own, and wait until it answers."""
        _run("ip", "link", "set", f"{self.name}o", "up")
        log = (self.folder / "sshd.log").open("ab")
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "--ipc", "--pid"),
                *("--fork", "--kill-child", "--mount-proc", "bash", str(self.folder / "init")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        until(lambda: _answers(self.address, 22), f"sshd of {self.name}", seconds=20, alive=self)

    def power_off(self) -> None:
        """Cut its cable, so that no connection is closed for the others to notice, then kill everything on it."""
        _run("ip", "link", "set", f"{self.name}o", "down")
        _kill_all_in(self.name)
        if self.process is not None:
            self.process.wait(20)

    def processes(self) -> list[str]:
        """Command lines of what runs on it, sshd apart."""
        return [line for line in map(_command_of, _pids_in(self.name)) if line and "sshd" not in line]


@dataclass
class Machines:
    """Hosts on one bridge and the key that opens them."""

    folder: Path
    key: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def workers(self) -> list[Host]:
        return self.hosts[1:]


@contextmanager
def machines(folder: Path, count: int, bashrc: str, visible: Sequence[Path] = ()) -> Iterator[Machines]:
    """So many hosts, powered on; all traces are removed in the end, and those of an earlier crash in the beginning.

    Args:
        folder: An empty folder for their disks.
        bashrc: Their ~/.bashrc.
        visible: Folders of this machine below /root or /tmp that they see as well, such as a Python environment.
    """
    with _only_one():
        remove()
        try:
            yield _make(folder, count, bashrc, visible)
        finally:
            remove()


def remove() -> None:
    """Remove all hosts and the bridge; nothing is left behind, whatever happened before."""
    for name in _namespaces():
        _kill_all_in(name)
        _run("ip", "netns", "del", name, check=False)
    for line in _run("ip", "-o", "link", "show", check=False).stdout.splitlines():
        device = line.split(":")[1].strip().partition("@")[0]
        if device.startswith(PREFIX):
            _run("ip", "link", "del", device, check=False)


def traces() -> list[str]:
    """What is left of any hosts: namespaces, devices, mounts."""
    links = _run("ip", "-o", "link", "show").stdout.splitlines()
    mounts = Path("/proc/mounts").read_text().splitlines()
    return [line for line in (*_namespaces(), *links, *mounts) if PREFIX in line]


def until(
    condition: Callable[[], object], what: str, *, seconds: float, every: float = 0.2, alive: Host | None = None
) -> float:
    """Wait for a condition, asked every so many seconds. Returns how long it took; fails the test after `seconds`."""
    start = time.monotonic()
    while not condition():
        if alive is not None and not alive.is_on:
            raise AssertionError(f"{what}: it ended; {(alive.folder / 'sshd.log').read_text()[-2000:]}")
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(every)
    return time.monotonic() - start


def _make(folder: Path, count: int, bashrc: str, visible: Sequence[Path]) -> Machines:
    folder.mkdir(parents=True, exist_ok=True)
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "addr", "add", f"{LAUNCHER}/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    made = Machines(folder, key)
    names = [(f"{PREFIX}{i}", f"{SUBNET}.{10 + i}") for i in range(1, count + 1)]
    # Debian's own /etc/hosts would say 127.0.1.1 for the host's name, and gloo would connect to itself
    hosts_file = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in names)
    for name, address in names:
        _wire(name, address)
        host = Host(name, address, folder / name)
        _prepare(host, key, hosts_file, bashrc, visible)
        made.hosts.append(host)
    for host in made.hosts:
        host.power_on()
    return made


def _wire(name: str, address: str) -> None:
    _run("ip", "netns", "add", name)
    outside, inside = f"{name}o", f"{name}i"
    _run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
    _run("ip", "link", "set", outside, "master", BRIDGE, "up")
    _run("ip", "link", "set", inside, "netns", name)
    _run("ip", "-n", name, "link", "set", inside, "name", "eth0")
    _run("ip", "-n", name, "link", "set", "lo", "up")
    _run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _run("ip", "-n", name, "link", "set", "eth0", "up")
    _run("ip", "-n", name, "route", "add", "default", "via", LAUNCHER)  # without one Ray takes 127.0.0.1


def _prepare(host: Host, key: Path, hosts_file: str, bashrc: str, visible: Sequence[Path]) -> None:
    """Its disk and the script that becomes its first process."""
    (host.home / ".ssh").mkdir(parents=True)
    (host.folder / "tmp").mkdir(mode=0o1777)
    (host.home / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    (host.home / ".bashrc").write_text(bashrc)
    (host.folder / "hosts").write_text(hosts_file)
    (host.folder / "sshd_config").write_text(_SSHD.format(address=host.address))
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host.folder / "host_key"))
    binds = []
    for path in visible:
        for hidden in ("root", "tmp"):
            if path.is_relative_to(f"/{hidden}"):
                inside = host.folder / hidden / path.relative_to(f"/{hidden}")
                inside.mkdir(parents=True, exist_ok=True)
                binds.append(f"mount --rbind {path} {inside}")
    script = _INIT.format(name=host.name, folder=host.folder, binds="\n".join(binds), sshd=_which("sshd"))
    (host.folder / "init").write_text(script)


@contextmanager
def _only_one() -> Iterator[None]:
    """Two tests at once would have the same names."""
    with _LOCK.open("w") as lock:
        _flock(lock)
        yield


def _flock(lock: IO[str]) -> None:
    fcntl.flock(lock, fcntl.LOCK_EX)


def _namespaces() -> list[str]:
    listed = _run("ip", "netns", "list", check=False).stdout.splitlines()
    return [line.split()[0] for line in listed if line.startswith(PREFIX)]


def _pids_in(name: str) -> list[int]:
    return [int(pid) for pid in _run("ip", "netns", "pids", name, check=False).stdout.split()]


def _kill_all_in(name: str) -> None:
    """Only what lives in this network namespace, which is ours."""

    def gone() -> bool:
        pids = _pids_in(name)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not any(_command_of(pid) for pid in pids)

    until(gone, f"end of all processes of {name}", seconds=20)


def _command_of(pid: int) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _run(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done
