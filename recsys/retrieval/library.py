"""Lazy import of FAISS, and the copy of an index on a GPU.

Three rules about FAISS that this package follows:

- A searchable index is never modified: searching while vectors are added crashes the process.
- `faiss.omp_set_num_threads` is never called: the setting is OpenMP's, so it changes torch's threads as well. Set
  OMP_NUM_THREADS before the process starts instead.
- An index is not searched in a forked child, where OpenMP's threads are missing and the search hangs; use spawned
  processes that load the index themselves.
"""

from __future__ import annotations

import threading
from typing import Any

from recsys.errors import DependencyError
from recsys.tables import IntArray

GPU_MOST = 2048  # items that a search on a GPU can return


def import_faiss() -> Any:
    """The module `faiss`.

    Raises:
        DependencyError: no build of it is installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError(
            "the item index needs FAISS, which is not installed; choose one extra: recsys[cpu], recsys[gpu] (CUDA 12) "
            "or recsys[gpu-cuvs] (CUDA 13)"
        ) from error
    return faiss


class GpuCopy:
    """A copy of a flat or IVF index on the first GPU; unfiltered searches go there, one at a time.

    FAISS's GPU resources are not thread-safe, hence the lock. Tested with a fake only, never measured on a GPU.
    """

    def __init__(self, faiss: Any, index: Any) -> None:
        self._resources = faiss.StandardGpuResources()
        self._index = faiss.index_cpu_to_gpu(self._resources, 0, index)
        self._lock = threading.Lock()

    def search(self, queries: Any, k: int, parameters: Any) -> IntArray:
        """Positions [Q, k], -1 where nothing was found."""
        with self._lock:
            positions: IntArray = self._index.search(queries, k, params=parameters)[1]
        return positions


def gpu_copy(faiss: Any, index: Any) -> GpuCopy | None:
    """A copy on the GPU, or None without a GPU, a FAISS build with GPU support, or GPU support of this index type."""
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return None
    try:
        return GpuCopy(faiss, index)
    except RuntimeError:  # raised by FAISS for a type without a GPU implementation
        return None
