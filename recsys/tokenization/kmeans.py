"""K-means (Lloyd) over tensors, deterministic for a generator: where codebooks start from."""

import torch


def kmeans(points: torch.Tensor, num_centres: int, *, generator: torch.Generator, iterations: int = 20) -> torch.Tensor:
    """Centres [K, d] of points [N, d]; an empty cluster restarts at the point farthest from its centre.

    With fewer points than centres, the spare centres are points drawn again and moved a little.
    """
    order = torch.randperm(len(points), generator=generator)[:num_centres]
    centres = points[order].clone()
    spare = num_centres - len(centres)
    if spare:
        again = points[torch.randint(len(points), (spare,), generator=generator)]
        spread = points.std(dim=0, correction=0) + 1e-3
        noise = torch.randn(again.shape, generator=generator, dtype=points.dtype)
        return torch.cat([centres, again + 0.1 * spread * noise])
    for _ in range(iterations):
        costs = torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2)
        nearest, labels = costs.min(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        counts = torch.bincount(labels, minlength=num_centres)
        centres = sums / counts.clamp_min(1).unsqueeze(1)
        empty = torch.nonzero(counts == 0).squeeze(1)
        farthest = torch.argsort(nearest + points.square().sum(dim=1), descending=True, stable=True)
        centres[empty] = points[farthest[: len(empty)]]
    return centres
