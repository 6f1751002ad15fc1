"""What test_distributed.py runs in two processes; `fit` called by itself is the same training in one."""

import json
import os
import sys
from itertools import islice
from pathlib import Path

import torch

from minidiff import train
from minidiff.nets import MLP
from minidiff.times import uniform_density


def points(rows):
    generator = torch.Generator().manual_seed(0)
    while True:
        yield (torch.randn(rows, 2, generator=generator).cumsum(1),)


def fit(seed=0, rows=33, stop=50, **settings):
    """50 steps of a denoising loss on 33 rows a batch: losses, final weights, rows seen here at the last step."""
    with train.seeded(seed):
        net = MLP(2, width=32, depth=2)
    seen = []

    def loss(x0, t, eps):
        seen.append(len(x0))
        t = t.to(x0)
        return (net(x0 + t[:, None] * eps, t) - x0).square().mean(1)

    batches = train.noised(points(rows), uniform_density(), seed=1)
    logs = train.fit(loss, net.parameters(), batches, steps=50, lr=3e-3, warmup=5, **settings)
    losses = [log.loss for log in islice(logs, stop)]
    logs.close()
    return {"losses": losses, "weights": weights(net), "rows": seen[-1]}


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()


def message(**settings):
    try:
        fit(**settings)
    except (RuntimeError, ValueError) as error:
        return str(error)


def once(rank):
    """One run, which starts the group of processes by itself and ends it."""
    from accelerate import PartialState

    result = fit(seed=rank)
    return result | {"processes": PartialState().num_processes, "after the end": message()}


def several(rank, state):
    """Several runs in a group that the script starts: one is interrupted after step 30 and taken up again."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    first = fit(seed=rank, stop=30, checkpoint=state)
    accelerator.wait_for_everyone()
    resumed = fit(seed=rank + 5, checkpoint=state)
    too_few = message(rows=1)
    accelerator.end_training()
    return {"losses": first["losses"] + resumed["losses"], "weights": resumed["weights"], "too few rows": too_few}


def main(mode, folder):
    rank = int(os.environ["RANK"])
    result = once(rank) if mode == "once" else several(rank, folder / "state")
    (folder / f"{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
