"""The engine as LitServe's documentation would have it; a module of its own, since its worker imports it anew.

Reads the bundle that BENCH_BUNDLE names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import litserve

from serving.engine.engine import BundleEngine
from tests.benchmarks.serving_servers import MAX_BATCH, WAIT_SECONDS, answered


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Batches in, batches out."""

    def setup(self, device: str) -> None:
        self.engine = BundleEngine.load(Path(os.environ["BENCH_BUNDLE"]))

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe would read an annotation as a schema
        return request

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return inputs

    def predict(self, x: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return answered(self.engine, x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def run(port: int) -> None:
    """Serve until terminated."""
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=WAIT_SECONDS, api_path="/v1/recommend")
    server = litserve.LitServer(api, accelerator="cpu", healthcheck_path="/readyz", timeout=False)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)
