"""What one step costs, for every pair of nodes of a fine grid: in bits of the bound, or in local error."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.process import Process
from minidiff.samplers.state import Grid
from minidiff.times import check_times


def bound_costs(snr: Tensor, mse: Tensor) -> Tensor:
    """cost[i, j] = ½ (SNR_j − SNR_i) mse_i, the term of the variational bound of a step from node i to node j, nats.

    The step is the Gaussian with the posterior variance β̃ (Kingma et al. 2021, eq. 14; Watson et al. 2021 sum these
    terms), and mse_i = E|x_0 − D(x, t_i)|² over all coordinates. snr: (T + 1,), finite and strictly increasing from
    noise to data; mse: (T + 1,) ≥ 0. Entries on and below the diagonal are infinite. Raises ValueError otherwise.
    """
    arguments.finite("snr", snr)
    arguments.finite("mse", mse)
    if snr.ndim != 1 or snr.shape != mse.shape or len(snr) < 2:
        raise ValueError(f"snr and mse must be (T + 1,) alike, got {tuple(snr.shape)} and {tuple(mse.shape)}")
    if not bool((snr.diff() > 0).all()) or float(snr[0]) < 0 or not bool((mse >= 0).all()):
        raise ValueError("snr must be ≥ 0 and strictly increasing, and mse ≥ 0")
    gain = (snr[None, :] - snr[:, None]).double() / 2 * mse[:, None]
    return torch.where(torch.ones_like(gain, dtype=torch.bool).triu(1), gain, torch.inf)


def local_errors(process: Process, times: Tensor, path: Tensor, x0: Tensor, sigma_data: float = 1.0) -> Tensor:
    """cost[i, j]: how far one step of DDIM from the exact x at node i ends from the exact x at node j.

    |x_j − (σ_j/σ_i) x_i − (α_j − α_i σ_j/σ_i) D_i|, root mean square over the coordinates, divided by
    √(α_j² σ_data² + σ_j²), by which such an error shrinks or grows until t = 0 on Gaussian data, in units of σ_data;
    mean over the samples. Needs no call of D beyond those of the reference run (GITS, Chen et al. 2024).

    times: (T + 1,); path: (T + 1, B, *D), the states of a reference run; x0: (T, B, *D) or longer, D at those states.
    Entries on and below the diagonal are infinite. Raises ValueError for other shapes.
    """
    check_times(times)
    arguments.finite("path", path)
    arguments.finite("x0", x0)
    arguments.real("sigma_data", sigma_data, 1e-300)
    last = len(times) - 1
    if len(path) != last + 1 or len(x0) < last or path.ndim < 3 or x0.shape[1:] != path.shape[1:]:
        raise ValueError(
            f"path must be ({last + 1}, B, *D) and x0 ({last}, B, *D), got {tuple(path.shape)} and {tuple(x0.shape)}"
        )
    grid = Grid.of(process, times)
    sigma, alpha = (torch.tensor(v, dtype=torch.float64) for v in (grid.sigma, grid.alpha))
    spread = (alpha.square() * sigma_data**2 + sigma.square()).sqrt()
    states, predictions = path.double().flatten(2), x0.double().flatten(2)
    cost = torch.full((last + 1, last + 1), torch.inf, dtype=torch.float64)
    for i in range(last):
        ratio = (sigma[i + 1 :] / sigma[i])[:, None, None]
        weight = alpha[i + 1 :, None, None] - alpha[i] * ratio
        missed = states[i + 1 :] - ratio * states[i] - weight * predictions[i]
        cost[i, i + 1 :] = missed.square().mean(2).sqrt().mean(1) / spread[i + 1 :]
    return cost
