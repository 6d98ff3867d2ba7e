"""The same engine behind three servers: ours, a plain FastAPI route with a queue, and LitServe.

`python -m tests.benchmarks.serving_servers NAME BUNDLE PORT` serves until it is terminated. Peers batch up to as many
requests as ours does, at the best tier, and answer in the order of arrival, as their documentation shows it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

MAX_BATCH, WAIT_SECONDS = 32, 0.001


def ours(bundle: Path, port: int) -> None:
    from serving.config import ServeConfig
    from serving.engine.engine import BundleEngine
    from serving.http.server import serve
    from serving.runtime.metrics import Metrics
    from serving.runtime.runtime import Runtime, RuntimeConfig

    metrics = Metrics()
    config = RuntimeConfig(max_batch=MAX_BATCH, batch_wait_ms=1e3 * WAIT_SECONDS)
    runtime = Runtime(
        BundleEngine.load(bundle),
        config,
        metrics=metrics,
        load=lambda source: BundleEngine.load(Path(source or bundle)),
    )
    store = f"sqlite:///{os.environ['BENCH_STORE']}"
    serve(runtime, ServeConfig(port=port, store=store, deadline_ms=1000), metrics=metrics)


def answered(engine: Any, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a hand-written route would do with a batch."""
    from serving.engine.interface import Request

    requests = [Request(tuple(body["history"]), int(body["k"])) for body in bodies]
    return [
        {
            "items": [
                {
                    "rank": rank,
                    "item_id": item.item_id,
                    "title": item.title,
                    "score": item.score,
                    "source_scores": item.source_scores,
                }
                for rank, item in enumerate(answer.items, start=1)
            ]
        }
        for answer in engine.recommend(requests, "full")
    ]


class Body(BaseModel):
    """At the top, where FastAPI finds what the annotation names."""

    history: list[str]
    k: int = 10


def fastapi(bundle: Path, port: int) -> None:
    """An asyncio queue behind a route, and one thread that takes pending requests."""
    import uvicorn
    from fastapi import FastAPI

    from serving.engine.engine import BundleEngine

    engine = BundleEngine.load(bundle)
    queue: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = asyncio.Queue()

    async def work() -> None:
        while True:
            jobs = [await queue.get()]
            await asyncio.sleep(WAIT_SECONDS)
            while len(jobs) < MAX_BATCH and not queue.empty():
                jobs.append(queue.get_nowait())
            found = await asyncio.to_thread(answered, engine, [body for body, _ in jobs])
            for (_, future), answer in zip(jobs, found, strict=True):
                if not future.done():
                    future.set_result(answer)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        task = asyncio.create_task(work())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/recommend")
    async def recommend(body: Body) -> dict[str, Any]:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        await queue.put((body.model_dump(), future))
        return await future

    @app.get("/readyz")
    async def ready() -> str:
        return "ok"

    uvicorn.run(app, port=port, log_level="error")


def litserve(bundle: Path, port: int) -> None:
    from tests.benchmarks.serving_litserve import run

    os.environ["BENCH_BUNDLE"] = str(bundle)
    run(port)


SERVERS = {"ours": ours, "fastapi": fastapi, "litserve": litserve}


def main() -> None:
    name, bundle, port = sys.argv[1:]
    # A parent that dies takes its server along, whatever it was doing.
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    SERVERS[name](Path(bundle), int(port))


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
