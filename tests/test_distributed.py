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


def launch(*arguments):
    """Run the script in two processes of this machine that talk over the loopback interface alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over loopback is set up for Unix")
def test_two_processes_train_as_one(tmp_path):
    finished = launch(tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))

    assert first["processes"] == second["processes"] == 2
    assert [first["rows"], second["rows"]] == [16, 17]  # of 33
    assert first["losses"] == second["losses"]
    assert first["weights"] == second["weights"]  # the second started from other weights: those of the first count

    alone = runpy.run_path(str(SCRIPT))["train_alone"]()
    assert len(alone["losses"]) == 50
    assert alone["rows"] == 33
    torch.testing.assert_close(
        torch.tensor(first["losses"]), torch.tensor(alone["losses"]), rtol=1e-5, atol=0, check_dtype=False
    )
    torch.testing.assert_close(torch.tensor(first["weights"]), torch.tensor(alone["weights"]), rtol=1e-3, atol=1e-5)

    assert first["resumed"] == second["resumed"] == first["losses"][30:]  # from the checkpoint after step 30
    assert "create an accelerate.Accelerator before the first" in first["after the end"]
    assert "a batch of 1 rows cannot be split over 2 processes" in first["too few rows"]
