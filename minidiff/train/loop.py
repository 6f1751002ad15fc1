"""The one training loop. It is a generator: the caller's `for` loop is the trainer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from minidiff.arguments import positive_integer, real
from minidiff.train import checkpoint as state
from minidiff.train.ema import EMA

if TYPE_CHECKING:
    from accelerate import Accelerator


class Log(NamedTuple):
    """One step: its number from 1, the loss before it, its learning rate, the norm of its gradient before clipping."""

    step: int
    loss: float
    lr: float
    grad_norm: float


def learning_rate(step: int, steps: int, lr: float, warmup: int) -> float:
    """The rate of step 1 … steps: linear up to lr at step `warmup`, then half a cosine down towards 0."""
    if step <= warmup:
        return lr * step / warmup
    return lr * (1 + math.cos(math.pi * (step - 1 - warmup) / (steps - warmup))) / 2


def fit(
    loss: Callable[..., Tensor],
    params: Iterable[Tensor],
    batches: Iterable[tuple[Tensor, ...]],
    *,
    steps: int,
    lr: float = 1e-3,
    warmup: int = 0,
    clip: float | None = 1.0,
    ema: EMA | None = None,
    amp: torch.dtype | None = None,
    checkpoint: str | Path | None = None,
    every: int = 500,
) -> Iterator[Log]:
    """Minimise the mean of `loss(*batch)` with AdamW; yields a `Log` after each of `steps` steps.

    loss: batch → (B,), one value a row. params: the parameters, all on one device, to which the batches are moved. lr,
    warmup: the rate rises linearly over `warmup` steps to lr and falls to 0 along half a cosine. clip: largest global
    norm of the gradient, None for no clipping. ema: updated after each step. amp: torch.bfloat16 evaluates the loss
    under autocast.

    Many processes (`torchrun`, `accelerate launch`): all must see the same batches, noise and times included. Each
    computes the rows of its own slice; the gradient and the logged loss are means over the whole batch, whatever the
    sizes of the slices. Parameters start from those of the first process. The model is not wrapped. A process
    group that this run started ends with it; create an `accelerate.Accelerator` first to run several.

    checkpoint: a file that holds the whole state, written every `every` steps, at the end, and when the loop is
    interrupted (`break`, Ctrl-C). Where it exists, the run continues from it exactly as if it had never stopped: it
    skips the batches already seen, so pass the same stream from its start. Randomness inside `loss` or buffers that it
    changes (other than those of the module that `ema` follows) are not part of it.

    Raises at the call: ValueError for out-of-range settings, no parameters, several devices, or an amp other than
    bfloat16. Raises during training: ValueError if a loss is not (B,), the batches end early or a checkpoint does not
    belong to this run; FloatingPointError, naming the step, if the loss or the gradient is NaN or infinite (the
    parameters are then those before it).
    """
    for name, value in (("steps", steps), ("every", every)):
        positive_integer(name, value)
    positive_integer("warmup", warmup, at_least=0)
    real("lr", lr, 0)
    if warmup > steps:
        raise ValueError(f"warmup must be at most steps = {steps}, got {warmup}")
    if clip is not None:
        real("clip", clip, 1e-12)
    if amp not in (None, torch.bfloat16):
        raise ValueError(f"amp must be torch.bfloat16 or None (float16 would need loss scaling), got {amp}")
    params = [p for p in params if p.requires_grad]
    if len({p.device for p in params}) != 1:
        raise ValueError(
            f"parameters must be trainable and on one device, got {sorted({str(p.device) for p in params})}"
        )
    path = None if checkpoint is None else Path(checkpoint)
    return _Run(loss, params, ema, steps, lr, warmup, clip, amp, path, every).logs(iter(batches))


def _accelerator(device: torch.device) -> Accelerator:
    from accelerate import Accelerator

    # Without cpu=True, processes that have no GPU would each run alone, believing themselves the only one.
    accelerator = Accelerator(cpu=device.type == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) > 1)
    if accelerator.num_processes > 1 and not torch.distributed.is_initialized():
        raise RuntimeError(
            f"the group of {accelerator.num_processes} processes ended with the first run: "
            "to run fit more than once, create an accelerate.Accelerator before the first"
        )
    return accelerator


@dataclass
class _Run:
    """The settings of one run of `fit` and the state that it advances."""

    loss: Callable[..., Tensor]
    params: list[Tensor]
    ema: EMA | None
    steps: int
    lr: float
    warmup: int
    clip: float | None
    amp: torch.dtype | None
    checkpoint: Path | None
    every: int
    step: int = 0
    whole: bool = False  # False while the state is half loaded or half updated

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.params, lr=self.lr, fused=True)

    def logs(self, batches: Iterator[tuple[Tensor, ...]]) -> Iterator[Log]:
        own_group = not torch.distributed.is_initialized()
        accelerator = _accelerator(self.params[0].device)
        try:
            self._begin(accelerator)
            for _ in range(self.step):
                self._next(batches)
            while self.step < self.steps:
                yield self._advance(self._next(batches), accelerator)
                if self.step % self.every == 0 and self.step < self.steps:
                    self._save(accelerator)
            self._save(accelerator)
        except (KeyboardInterrupt, GeneratorExit):
            if self.whole:  # else the last file stays the newest whole state
                self._save(accelerator)
            raise
        finally:
            if own_group:
                accelerator.end_training()

    def _begin(self, accelerator: Accelerator) -> None:
        if self.checkpoint is not None and self.checkpoint.exists():
            self.step = state.load(self.checkpoint, self._settings(), self.params, self.optimizer, self.ema)
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            for p in self.params:
                p.data.copy_(broadcast(p.data.to(accelerator.device)))
        self.whole = True

    def _settings(self) -> dict[str, Any]:
        decay = None if self.ema is None else self.ema.decay
        settings = {"steps": self.steps, "lr": self.lr, "warmup": self.warmup, "clip": self.clip}
        return settings | {"ema decay": decay, "amp": self.amp and str(self.amp)}

    def _save(self, accelerator: Accelerator) -> None:
        if self.checkpoint is not None and accelerator.is_main_process:
            state.save(self.checkpoint, self.step, self._settings(), self.params, self.optimizer, self.ema)

    def _next(self, batches: Iterator[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        batch = next(batches, None)
        if batch is None:
            raise ValueError(f"the batches ended before the {self.steps} steps were done: pass an endless stream")
        return batch

    def _advance(self, batch: tuple[Tensor, ...], accelerator: Accelerator) -> Log:
        """One step: the gradient of the mean loss over the whole batch, clipped, and an AdamW update."""
        step = self.step + 1
        loss = self._backward(batch, accelerator)
        norm = float(torch.nn.utils.clip_grad_norm_(self.params, self.clip or math.inf))
        for name, value in (("loss", loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the {name} is {value} at step {step} of {self.steps}: lower lr or check the data"
                )
        rate = learning_rate(step, self.steps, self.lr, self.warmup)
        self.optimizer.param_groups[0]["lr"] = rate
        self.whole = False
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        self.step, self.whole = step, True
        return Log(step, loss, rate, norm)

    def _backward(self, batch: tuple[Tensor, ...], accelerator: Accelerator) -> float:
        """Leave the gradient of (1/B) Σ loss over all B rows, of every process, in the parameters; return that mean."""
        rows, n, index = len(batch[0]), accelerator.num_processes, accelerator.process_index
        if rows < n:
            raise ValueError(f"a batch of {rows} rows cannot be split over {n} processes")
        mine = slice(rows * index // n, rows * (index + 1) // n)
        device = self.params[0].device
        share = [x[mine].to(device, non_blocking=True) for x in batch]
        self.optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.amp is not None):
            losses = self.loss(*share)
        if losses.shape != (len(share[0]),):
            raise ValueError(f"loss must return one value a row, ({len(share[0])},), got {tuple(losses.shape)}")
        mean = losses.sum() / rows
        accelerator.backward(mean)
        if n == 1:
            return float(mean.detach())
        grads = [p.grad for p in self.params if p.grad is not None]
        flat = torch.cat([mean.detach().reshape(1), *(g.flatten() for g in grads)])
        flat = accelerator.reduce(flat.to(accelerator.device), reduction="sum").to(device)
        for g, reduced in zip(grads, flat[1:].split([g.numel() for g in grads]), strict=True):
            g.copy_(reduced.view_as(g))
        return float(flat[0])
