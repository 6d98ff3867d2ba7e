"""Uniform semantic mapping: choosing codes for a batch so that every code is equally loaded (optimal transport).

LC-Rec (arXiv 2311.09049, section 3.1.2); Sinkhorn scaling after Cuturi (arXiv 1306.0895), stabilised by absorbing the
scalings into log potentials (Schmitzer, arXiv 1610.06519, section 3.1), so that no epsilon overflows.
"""

import torch

from recsys.errors import ConfigError

# One round changes a scaling by at most a factor of B K, so that twenty of them stay inside float64's range.
_ROUNDS_PER_ABSORPTION = 20


def transport_plan(costs: torch.Tensor, *, epsilon: float, iterations: int) -> torch.Tensor:
    """The entropic optimal-transport plan between rows and columns with uniform marginals.

    Minimises <P, C> - epsilon H(P), where C is `costs` rescaled to [-1, 1].

    Args:
        costs: [B, K], any scale.
        epsilon: strength of the entropy, relative to costs in [-1, 1]; safe from 1e-4 up.
        iterations: rounds of row and column scaling; the columns are exact after each.

    Returns:
        float64 [B, K]; columns sum to 1/K, rows to about 1/B.

    Raises:
        ConfigError: epsilon is not positive or iterations is less than 1.
    """
    if epsilon <= 0 or iterations < 1:
        raise ConfigError(f"transport plan: got epsilon {epsilon} and {iterations} iterations; both must be positive")
    rows, columns = costs.shape
    log_plan = -_rescaled(costs.double()) / epsilon
    # The first round is exact in logs: a column far from every row has no representable entry before it.
    log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True)
    log_plan = log_plan - torch.logsumexp(log_plan, dim=0, keepdim=True)
    kernel = log_plan.exp()
    left, right = kernel.new_ones(rows), kernel.new_ones(columns)
    for round_number in range(1, iterations):
        left = 1 / (rows * (kernel @ right))
        right = 1 / (columns * (left @ kernel))
        if round_number % _ROUNDS_PER_ABSORPTION == 0:
            log_plan = log_plan + left.log()[:, None] + right.log()[None, :]
            kernel = log_plan.exp()
            left, right = torch.ones_like(left), torch.ones_like(right)
    plan = left[:, None] * kernel * right[None, :]
    return plan / (columns * plan.sum(dim=0, keepdim=True))


def uniform_codes(costs: torch.Tensor, *, epsilon: float, iterations: int) -> torch.Tensor:
    """The hard choice of each row [B] from the plan over `costs` [B, K]: its largest entry."""
    return transport_plan(costs, epsilon=epsilon, iterations=iterations).argmax(dim=1)


def _rescaled(costs: torch.Tensor) -> torch.Tensor:
    low, high = costs.min(), costs.max()
    half = ((high - low) / 2).clamp_min(torch.finfo(costs.dtype).tiny)
    return (costs - (low + high) / 2) / half
