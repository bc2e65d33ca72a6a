"""Reaching clusters: what is refused, how soon, and in which words. Real sockets and real Ray; no other machine."""

import os
import socket
from dataclasses import replace

import pytest

from sweep.errors import SweepError
from sweep.execution import cluster
from sweep.execution.cluster import Cluster, NodeLook, check_reachable, check_versions, explain_refusal, pending_runs


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_an_address_where_nobody_listens_is_named(free_port):
    with pytest.raises(SweepError, match=f"Ray cluster at '127.0.0.1:{free_port}' cannot be reached: .*refused"):
        check_reachable(f"127.0.0.1:{free_port}")


@pytest.mark.parametrize("address", ["somewhere", "host:", "host:port"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(SweepError, match="auto or host:port is needed"):
        check_reachable(address)


def test_a_ray_client_is_sent_to_submit():
    with pytest.raises(SweepError, match="w2s submit"):
        check_reachable("ray://10.0.0.1:10001")


def test_a_server_that_is_no_ray_is_given_up(monkeypatch):
    """Ray itself would wait for 163 s and end the process."""
    monkeypatch.setattr(cluster, "PROBE_SECONDS", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SweepError, match=f"'127.0.0.1:{port}' is no Ray cluster, or it hangs"):
            check_reachable(f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("gcs_client.cc:210: Unauthenticated: RPC error: InvalidAuthToken\nConnectionError: ...", "asks for a token"),
        (
            "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
            "This process on node 10.0.0.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n",
            "has another version than this machine: The cluster was started with: Ray: 2.59.0 Python: 3.12.1 This "
            "process on node 10.0.0.2 was started with: Ray: 2.60.0 Python: 3.11.7",
        ),
        ("Can't find a `node_ip_address.json` file", "this machine is no node of the Ray cluster"),
        ("ConnectionError: Could not find any running Ray instance.", "no Ray runs on this machine"),
        ("Traceback\nOSError: something else\n", "cannot be reached: OSError: something else"),
    ],
)
def test_refusals_are_told_to_people(said, told):
    assert told in explain_refusal("10.0.0.1:6379", said)


def look(name: str = "gpu1 (10.0.0.7)") -> NodeLook:
    return NodeLook(name, **cluster._looker(())())


def test_a_node_like_this_one_is_accepted():
    check_versions([look()])
    versions = look().versions
    check_versions(
        [replace(look(), versions={**versions, "torch": f"{versions['torch']}".partition("+")[0] + "+cu128"})]
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"python": "3.99.1"}, r"node gpu1 \(10.0.0.7\) has Python 3.99 \(here 3\.\d+\)"),
        ({"versions": {**look().versions, "torch": "1.0"}}, r"gpu1 .* torch 1.0 \(here \d"),
        ({"versions": {**look().versions, "ray": "1.0"}}, r"gpu1 .* ray 1.0 \(here \d"),
        ({"versions": {}}, r"gpu1 .* w2s-sweep missing \(here"),
        ({"source": "0"}, r"gpu1 .* w2s code 0 \(here [0-9a-f]{12}\)"),
    ],
)
def test_a_node_that_differs_is_named_with_both_versions(changed, told):
    with pytest.raises(SweepError, match=told):
        check_versions([look("other"), replace(look(), **changed)])


def test_so_many_runs_wait_that_new_nodes_are_used():
    nodes = ({"CPU": 4.0}, {"CPU": 8.0, "GPU": 2.0})
    assert pending_runs(Cluster(nodes)) == 6
    assert pending_runs(Cluster(nodes, growable=({"GPU": 8.0},))) == 22
    assert pending_runs(Cluster(({"CPU": 1.0},))) == 4
    assert pending_runs(Cluster(({"CPU": 1e4},))) == 64


def test_workers_get_what_only_the_driver_has(monkeypatch, tmp_path):
    for name in cluster.CARRIED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    assert cluster.carried_environment() == {}
    (tmp_path / "token").write_text("hf_mine\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    carried = cluster.carried_environment()
    assert carried == {"HF_TOKEN": "hf_mine", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    set_variables = cluster._setting(carried)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the node")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    set_variables()
    assert os.environ["HF_TOKEN"] == "hf_mine"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "of the node"
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    monkeypatch.delenv("HF_TOKEN")
