"""K-means, deterministic for a generator: the initial codebooks."""

import warnings

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits


def kmeans(points: torch.Tensor, num_centres: int, *, generator: torch.Generator, iterations: int = 20) -> torch.Tensor:
    """Centres [K, d] of points [N, d]. With fewer points than centres, the rest are points drawn again, with noise."""
    missing = num_centres - len(points)
    if missing > 0:
        again = points[torch.randint(len(points), (missing,), generator=generator)]
        spread = points.std(dim=0, correction=0) + 1e-3
        noise = torch.randn(again.shape, generator=generator, dtype=points.dtype)
        return torch.cat([points, again + 0.1 * spread * noise])
    seed = int(torch.randint(2**31, (1,), generator=generator))
    model = KMeans(num_centres, n_init=1, max_iter=iterations, tol=0, random_state=seed)
    # One thread: several would add up a centre's points in an order that changes from run to run.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than centres
        return torch.from_numpy(model.fit(points.numpy()).cluster_centers_)
