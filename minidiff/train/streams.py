"""Streams around the loop: what goes in (noised batches) and what is shown of what comes out (progress)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from minidiff.arguments import positive_integer, real
from minidiff.noise import standard_normal
from minidiff.train.loop import Log

RECENT = 100  # losses averaged in what `progress` shows


def noised(
    batches: Iterable[tuple[Tensor, ...]], density: Callable[[int, torch.Generator], Tensor], seed: int
) -> Iterator[tuple[Tensor, ...]]:
    """(x_0, *rest) → (x_0, t, ε, *rest) with t ~ density (B,) and ε ~ N(0, I) of the shape of x_0.

    Both are drawn on the CPU from `seed` alone and put on the device of x_0, so that a run is the same on every device
    and in every process. density: `(n, generator) -> t (n,)`, such as `times.uniform_density()`.
    """
    generator = torch.Generator().manual_seed(seed)
    for x0, *rest in batches:
        t = density(len(x0), generator).to(x0.device)
        eps = standard_normal(x0.shape, generator, dtype=x0.dtype).to(x0.device)
        yield x0, t, eps, *rest


def label_dropout(
    batches: Iterable[tuple[Tensor, ...]], null: int, probability: float, seed: int
) -> Iterator[tuple[Tensor, ...]]:
    """(…, y) → (…, y′): each label is independently replaced by the label `null` with the given probability.

    The network then learns the unconditional denoiser too, which classifier-free guidance needs (Ho & Salimans 2022,
    algorithm 1). Raises ValueError for a probability outside [0, 1].
    """
    real("probability", probability, 0, 1)
    positive_integer("null", null)
    return _dropped(batches, null, probability, torch.Generator().manual_seed(seed))


def _dropped(
    batches: Iterable[tuple[Tensor, ...]], null: int, probability: float, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    for *rest, y in batches:
        dropped = (torch.rand(len(y), generator=generator) < probability).to(y.device)
        yield *rest, y.masked_fill(dropped, null)


def progress(logs: Iterable[Log], steps: int) -> Iterator[Log]:
    """Pass the logs on, showing the step and the mean of the last 100 losses.

    A terminal gets a tqdm bar; a notebook one line that is replaced in place; anything else (a file, a test) one line
    at the end.
    """
    recent: deque[float] = deque(maxlen=RECENT)
    show = _display()
    log = None
    for log in logs:
        recent.append(log.loss)
        show(log.step, steps, sum(recent) / len(recent), log.step == steps)
        yield log
    if log is not None and log.step < steps:
        show(log.step, steps, sum(recent) / len(recent), True)


def _display() -> Callable[[int, int, float, bool], None]:
    """The function (step, steps, loss, last) that shows the state in the way that fits where the output goes."""
    if (
        "IPython" in sys.modules
        and (shell := sys.modules["IPython"].get_ipython()) is not None
        and shell.has_trait("kernel")
    ):
        return _notebook()
    return _bar() if sys.stderr.isatty() else _one_line


def _one_line(step: int, steps: int, loss: float, last: bool) -> None:
    if last:
        print(f"step {step} of {steps}: loss {loss:.4f}")


def _notebook() -> Callable[[int, int, float, bool], None]:
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(step: int, steps: int, loss: float, last: bool) -> None:
        if last or step % max(1, steps // 100) == 0:
            handle.update({"text/plain": f"step {step} of {steps}: loss {loss:.4f}"}, raw=True)

    return show


def _bar() -> Callable[[int, int, float, bool], None]:
    from tqdm import tqdm

    bar = tqdm(unit="step")

    def show(step: int, steps: int, loss: float, last: bool) -> None:
        bar.total = steps
        bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        bar.update(step - bar.n)
        if last:
            bar.close()

    return show
