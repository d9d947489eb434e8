"""A study's result is the same one after the other, side by side, on a cluster, and resumed."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import joblib
import pytest

from tests.faults import work

SEEDS = (0, 1, 2)

pytestmark = [
    pytest.mark.slow,
    # What distributed does when it starts and ends its processes is not this package's.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    return work.study(tmp_path_factory.mktemp("serial"), seeds=SEEDS)


@contextmanager
def dask_cluster():
    """A scheduler and two workers, each a process of its own that is spoken to over loopback."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config(backend="dask"),
    ):  # fmt: skip
        yield client


def test_processes_and_a_dask_cluster_give_what_one_process_gives(serial, tmp_path):
    with joblib.parallel_config(backend="loky"):
        assert work.study(tmp_path / "processes", n_jobs=2, seeds=SEEDS) == serial
    with dask_cluster() as client:
        assert work.study(tmp_path / "dask", n_jobs=2, seeds=SEEDS) == serial
        assert len(client.scheduler_info()["workers"]) == 2


def test_a_worker_of_a_cluster_that_is_killed_loses_nothing(serial, tmp_path):
    killed = []
    with dask_cluster() as client:
        (victim, *_) = client.run(os.getpid).values()

        def kill():
            while not list((tmp_path / "dask").rglob("checkpoints/*.safetensors")):
                time.sleep(0.02)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        found = work.study(tmp_path / "dask", n_jobs=2, seeds=SEEDS)
        thread.join(10)
        assert killed == [victim] and victim not in client.run(os.getpid).values()
    assert found == serial
    # What it leaves is whole: the same command finds every seed finished.
    assert work.study(tmp_path / "dask", seeds=SEEDS) == serial


def test_a_run_that_was_cut_off_goes_on_elsewhere(serial, tmp_path):
    assert work.study(tmp_path, seeds=SEEDS[:1]) != serial
    with joblib.parallel_config(backend="loky"):
        assert work.study(tmp_path, n_jobs=2, seeds=SEEDS) == serial
