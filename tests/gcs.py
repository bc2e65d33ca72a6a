"""A stand-in for Google Cloud Storage on loopback, for gcsfs's own client: no real server runs here.

It knows as much of the JSON API as the store uses: upload (with ifGenerationMatch), download, listing, deletion. What
Google's servers do beyond that is not shown by it.
"""

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # as `sweep.store` does; read on import


@dataclass
class Bucket:
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Names, and the query of the request."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextlib.contextmanager
def gcs_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Every gs:// URL is a name in one bucket, as long as the block lasts."""
    bucket = Bucket()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            with bucket.lock:
                status, answer = answer_to(bucket, self.command, url.path, query, body)
            text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_address[1]}")
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    try:
        yield bucket
    finally:
        gcsfs.GCSFileSystem.clear_instance_cache()
        server.shutdown()
        server.server_close()
        thread.join()


def answer_to(bucket: Bucket, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Any]:
    if method == "POST" and path.startswith("/upload/") and query.get("uploadType") == "multipart":
        _, description, content, _ = body.split(b"--==0==")
        name = json.loads(description.split(b"\n\n", 1)[1])["name"]
        bucket.uploads.append((name, query))
        if query.get("ifGenerationMatch") == "0" and name in bucket.objects:
            return 412, {"error": {"code": 412, "message": "At least one of the pre-conditions did not hold."}}
        bucket.objects[name] = content.split(b"\n\n", 1)[1].removesuffix(b"\n")
        return 200, described(bucket, name)
    if found := re.match(r"/(?:download/)?storage/v1/b/[^/]+/o/(.+)", path):
        name = unquote(found[1])
        if name not in bucket.objects:
            return 404, {"error": {"code": 404, "message": f"No such object: {name}"}}
        if method == "DELETE":
            del bucket.objects[name]
            return 204, b""
        return 200, bucket.objects[name] if query.get("alt") == "media" else described(bucket, name)
    if re.fullmatch(r"/storage/v1/b/[^/]+/o/?", path):
        prefix, names, folders = query.get("prefix", ""), [], set()
        for name in sorted(bucket.objects):
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                if query.get("delimiter") and query["delimiter"] in rest:
                    folders.add(prefix + rest.partition("/")[0] + "/")
                else:
                    names.append(name)
        return 200, {"items": [described(bucket, name) for name in names], "prefixes": sorted(folders)}
    return 404, {"error": {"code": 404, "message": f"{method} {path} is not known here"}}


def described(bucket: Bucket, name: str) -> dict[str, str]:
    content = bucket.objects[name]
    stamp = "2026-01-01T00:00:00.000Z"
    return {"name": name, "bucket": "results", "size": str(len(content)), "updated": stamp, "generation": "1"}
