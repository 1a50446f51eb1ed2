"""A FastAPI service with a batch per request, and batches in the background.

`POST /prices` runs a batch and answers with its results. `POST /jobs` starts one in the background and answers at once;
`GET /jobs/{id}` shows how it went. Telemetry is mounted at /telemetry. The example calls itself; to serve it for real:
`uvicorn fastapi_service:app`.

Needs: flowrt, fastapi, httpx. Prints:

    prices: [1.1, 2.2, None] with the error of item 2: unknown product: c
    job: running
    job: done, 500 ok
    metrics: flowrt_items_total{batch="price",node="price",status="ok"} 502.0
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException

import flowrt

PRICES = {"a": 1.1, "b": 2.2}


@flowrt.node(max_concurrency=20, item_timeout=2)
async def price(product: str) -> float:
    """Look a price up, as another service would."""
    await asyncio.sleep(0.01)
    if product not in PRICES:
        raise LookupError(f"unknown product: {product}")
    return PRICES[product]


jobs: dict[str, asyncio.Task[flowrt.BatchResults]] = {}


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # FastAPI passes it
    """At the end, cancel the jobs that still run: each cancels its items and leaves nothing behind."""
    yield
    for job in jobs.values():
        job.cancel()
    await asyncio.gather(*jobs.values(), return_exceptions=True)


app = FastAPI(lifespan=lifespan)
app.mount("/telemetry", flowrt.asgi_app())


@app.post("/prices")
async def prices(products: list[str]) -> dict[str, Any]:
    """One batch for one request. If the client goes away and the request is cancelled, so is the batch."""
    results = await price.map(products)
    return {"prices": results.outputs, "errors": {result.index: result.error for result in results.failed}}


@app.post("/jobs", status_code=202)
async def start(products: list[str]) -> dict[str, str]:
    """A batch in the background."""
    job_id = uuid.uuid4().hex
    jobs[job_id] = asyncio.create_task(price.map(products, name="price"))
    return {"id": job_id}


@app.get("/jobs/{job_id}")
async def show(job_id: str) -> dict[str, Any]:
    """How a job goes."""
    job = jobs.get(job_id)
    if job is None:
        raise HTTPException(404)
    if not job.done():
        return {"state": "running"}
    results = job.result()
    return {"state": "done", "ok": len(results.succeeded), "failed": len(results.failed)}


async def main() -> None:
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = (await client.post("/prices", json=["a", "b", "c"])).json()
        print(f"prices: {answer['prices']} with the error of item 2: {answer['errors']['2']}")

        job = (await client.post("/jobs", json=["a", "b"] * 250)).json()["id"]
        print("job:", (await client.get(f"/jobs/{job}")).json()["state"])
        while (shown := (await client.get(f"/jobs/{job}")).json())["state"] == "running":
            await asyncio.sleep(0.05)
        print(f"job: {shown['state']}, {shown['ok']} ok")

        metrics = (await client.get("/telemetry/metrics")).text.splitlines()
        print("metrics:", next(line for line in metrics if line.startswith("flowrt_items_total") and '"ok"' in line))


if __name__ == "__main__":
    asyncio.run(main())
