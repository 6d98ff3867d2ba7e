"""K-means over tensors, deterministic for a generator: where codebooks start from."""

import torch


def kmeans(points: torch.Tensor, num_centres: int, *, generator: torch.Generator, iterations: int = 20) -> torch.Tensor:
    """Centres [K, d] of points [N, d] by Lloyd's iterations from a k-means++ start (Arthur & Vassilvitskii, 2007).

    An empty cluster restarts at the point farthest from its centre. With fewer points than centres, the spare centres
    are points drawn again and moved a little.
    """
    spare = num_centres - len(points)
    if spare > 0:
        again = points[torch.randint(len(points), (spare,), generator=generator)]
        spread = points.std(dim=0, correction=0) + 1e-3
        noise = torch.randn(again.shape, generator=generator, dtype=points.dtype)
        return torch.cat([points, again + 0.1 * spread * noise])
    squares = points.square().sum(dim=1)
    centres = _spread_start(points, num_centres, generator)
    for _ in range(iterations):
        costs, labels = torch.addmm(centres.square().sum(dim=1), points, centres.T, alpha=-2).min(dim=1)
        counts = torch.bincount(labels, minlength=num_centres)
        centres = torch.zeros_like(centres).index_add_(0, labels, points) / counts.clamp_min(1).unsqueeze(1)
        empty = torch.nonzero(counts == 0).squeeze(1)
        farthest = torch.argsort(costs + squares, descending=True, stable=True)
        centres[empty] = points[farthest[: len(empty)]]
    return centres


def _spread_start(points: torch.Tensor, num_centres: int, generator: torch.Generator) -> torch.Tensor:
    """Points drawn one after another, each with odds of its squared distance to the nearest one drawn."""
    drawn = int(torch.randint(len(points), (1,), generator=generator))
    distances = torch.full((len(points),), torch.inf, dtype=points.dtype)
    centres = []
    for _ in range(num_centres):
        centres.append(points[drawn])
        distances = torch.minimum(distances, (points - points[drawn]).square().sum(dim=1))
        drawn = int(torch.multinomial(distances.clamp_min(1e-12), 1, generator=generator))
    return torch.stack(centres)
