"""HTTP service in a process of its own: answers with the number in the path after a delay."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["http_service"]


@contextmanager
def http_service(latency_s: float, not_on: int | None = None) -> Iterator[str]:
    """Run a service, which ends with its standard input; yields its URL.

    Args:
        latency_s: Delay of its answers, in seconds.
        not_on: Core that it must leave to what is measured there; None for any core.
    """
    command = [sys.executable, "-m", "bench.service", str(latency_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if not_on is not None and (others := os.sched_getaffinity(0) - {not_on}):
            os.sched_setaffinity(process.pid, others)
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


async def _serve(latency_s: float) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(latency_s)
        return web.Response(text=request.match_info["number"])

    app = web.Application()
    app.router.add_get("/{number}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2_048)
    await site.start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve(float(sys.argv[1])))
