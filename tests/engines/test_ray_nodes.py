"""A run on a cluster of two machines, one of which is lost. Both are on this machine, with raylets of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Lists, workers_of
from tests.engines.runs import answered_queries, assert_equal_runs, recorded_engine, run_locally, start_run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.enable_socket,
    pytest.mark.filterwarnings("default"),  # those of Ray are its own
]


@pytest.fixture
def nodes(python_path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose head has room for all workers; the tests add other nodes."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", python_path)  # the nodes, and through them the workers, inherit it
    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args={"num_cpus": 2, **small})
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call, unused-ignore]  # where Ray is not installed, it is Any


def test_a_machine_that_is_lost_loses_nothing(lists: Lists, tmp_path: Path, nodes: Any, python_path: str) -> None:
    one = run_locally(lists(model="fake:stutter,batch_size=1"), tmp_path / "local")
    second = nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    raylets = [node.all_processes["raylet"][0].process.pid for node in (nodes.head_node, second)]
    served, folder = tmp_path / "served", tmp_path / "ray"
    spec = lists(model=f"fake:stutter,batch_size=1,delay=0.2,log={served}")
    with start_run(spec, folder, python_path, engine=f"ray:{nodes.address}") as run:
        while len(answered_queries(served)) < 10 or not all(map(workers_of, raylets)):
            assert run.poll() is None
            time.sleep(0.05)
        nodes.remove_node(second, allow_graceful=False)
        assert run.wait(120) == 0
    assert_equal_runs(one, folder)
    assert recorded_engine(folder)["lost_workers"] == 1
