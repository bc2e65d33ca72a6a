"""Real sweeps through the real command line, on real Ray; three tiny rungs, seconds of training."""

import pytest

from tests import s3
from tests.end_to_end.drive import Results, w2s


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, tiny_text) -> tuple[Results, str]:
    """The tiny sweep, run once from start to end, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = folder / "tiny.yaml"
    spec.write_text(tiny_text)
    output = w2s("run", spec, "--storage", folder / "results", cwd=folder)
    return Results(spec, folder / "results"), output


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An S3 server with an empty bucket; this process and those it starts use it, with a cache of their own."""
    with s3.s3_server() as endpoint:
        s3.use(monkeypatch, endpoint)
        s3.make_bucket(endpoint, "results")
        monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
        yield endpoint
