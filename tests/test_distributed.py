"""Two processes train as one does: the same losses, with slices of unequal size."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("distributed_script.py")


def launch(mode, folder):
    """Run the script in two processes of this machine that talk over the loopback interface alone; what each wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), str(SCRIPT), mode, str(folder)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone():
    return runpy.run_path(str(SCRIPT))["fit"]()


def same_training(one, other):
    """50 losses to rtol 1e-5; the final weights, through which rounding has been carried for 50 steps, to 1e-3."""
    assert len(one["losses"]) == len(other["losses"]) == 50
    losses, weights = (torch.tensor([one[key], other[key]], dtype=torch.float64) for key in ("losses", "weights"))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_two_processes_train_as_one(tmp_path, alone):
    first, second = launch("once", tmp_path)
    assert first["processes"] == second["processes"] == 2
    assert [first["rows"], second["rows"], alone["rows"]] == [16, 17, 33]
    assert first["losses"] == second["losses"]
    assert first["weights"] == second["weights"]  # the second started from other weights: those of the first count
    same_training(first, alone)
    assert "create an accelerate.Accelerator before the first" in first["after the end"]


def test_two_processes_stop_and_resume(tmp_path, alone):
    first, second = launch("several", tmp_path)
    assert first["losses"] == second["losses"]
    same_training(first, alone)
    assert "a batch of 1 rows cannot be split over 2 processes" in first["too few rows"]
