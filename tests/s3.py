"""A real S3 API server on loopback (moto's, in a process of its own), and a proxy before it that can misbehave."""

import contextlib
import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a fresh server, without buckets; it ends with the block, or with this process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        host, port = process.stdout.readline().split()
        yield f"http://{host}:{port}"
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(timeout=10)
        process.stdout.close()


def variables(endpoint: str) -> dict[str, str]:
    """What a machine of a cluster has in its environment."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # without credentials, botocore would ask the cloud's machine service
    }


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str, **others: str) -> None:
    """This process, and those it starts, use the server; file systems made for another one are forgotten."""
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (variables(endpoint) | others).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


def make_bucket(endpoint: str, name: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    connection.request("PUT", f"/{name}", headers={"Host": urlsplit(endpoint).netloc})
    assert connection.getresponse().status == 200
    connection.close()


@dataclass(frozen=True)
class Request:
    """What a client of the proxy asks for."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """What the proxy does, for so many requests that match, instead of passing them on."""

    action: str
    """A status with an S3 error code ("503 SlowDown"), "reset", or "lost": passed on, but the answer is lost."""
    times: int = 1
    matches: Callable[[Request], bool] = lambda request: True
    met: int = 0


@dataclass
class Proxy:
    """Between clients and the server; `faults` may be changed at any time."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, request: Request) -> str | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.met < fault.times and fault.matches(request):
                    fault.met += 1
                    return fault.action
        return None


@contextlib.contextmanager
def proxy_before(endpoint: str) -> Iterator[Proxy]:
    proxy, target = Proxy(), urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = dict(self.headers.items())
            action = proxy.fault_for(Request(self.command, self.path, headers))
            if action and action[0].isdigit():
                status, code = action.split()
                text = f"<Error><Code>{code}</Code><Message>so says the proxy</Message></Error>".encode()
                self._answer(int(status), {"Content-Type": "application/xml"}, text)
                return
            if action == "reset":
                self._reset()
                return
            connection = http.client.HTTPConnection(target)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if action == "lost":
                self._reset()
                return
            self._answer(answer.status, dict(answer.getheaders()), text)

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def _answer(self, status: int, headers: dict[str, str], text: bytes) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", str(len(text))) if self.command == "HEAD" else str(len(text))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def log_message(self, *args: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
