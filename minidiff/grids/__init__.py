"""Grids that are computed: from a Gaussian, from measured local errors, by dynamic programming, and by gradients.

The grids that are formulas are in `minidiff.times`. Here a grid is the solution of a small problem: the angles of a
Gaussian law (`gaussian`), equal shares of a measured error (`equidistribute`), the path of least cost through a fine
grid (`least_cost_path`, `align`), or the parameters of a solver that is differentiable in its times (`StepSolver`).
"""

from minidiff.grids.angle import angle, time_of_angle
from minidiff.grids.costs import bound_costs, local_errors
from minidiff.grids.energy_distance import energy_distance
from minidiff.grids.equidistribute import equidistribute
from minidiff.grids.gaussian import arc_length_radii, contraction, contraction_loss, optimal_radii
from minidiff.grids.geometry import trajectory_shares
from minidiff.grids.shortest_path import align, least_cost_path, path_cost
from minidiff.grids.step_solver import StepSolver

__all__ = [
    "StepSolver",
    "align",
    "angle",
    "arc_length_radii",
    "bound_costs",
    "contraction",
    "contraction_loss",
    "energy_distance",
    "equidistribute",
    "least_cost_path",
    "local_errors",
    "optimal_radii",
    "path_cost",
    "time_of_angle",
    "trajectory_shares",
]
