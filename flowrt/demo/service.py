"""HTTP service of the demo, in its own process: `python -m flowrt.demo.service`.

It prints its port as one line of JSON and ends when its standard input closes, so that it never outlives its parent.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
from contextlib import suppress
from typing import Final, NamedTuple

from aiohttp import web

from flowrt.demo.airports import Airport, Atlas, load_airports

__all__ = ["Plan", "make_app", "plan_of"]

_SEED: Final = 2
_LATENCY_S: Final = (0.020, 0.080)
_STRAGGLER_S: Final = (1.0, 3.0)
_ERRORS: Final = 0.02
_STRAGGLERS: Final = 0.01

_ATLAS: Final = web.AppKey("atlas", Atlas)
_AIRPORTS: Final = web.AppKey("airports", dict[str, Airport])


class Plan(NamedTuple):
    """Behaviour of the service for one airport.

    Args:
        status: HTTP status of the answer.
        latency_s: Time until the answer, in seconds.
    """

    status: int
    latency_s: float


def plan_of(code: str) -> Plan:
    """Return the plan of an airport, which depends on its code only: 2 % are answered 503, 1 % late.

    Args:
        code: IATA code of the airport.
    """
    chance = random.Random(f"{_SEED}:{code}")  # noqa: S311  # must be reproducible
    draw = chance.random()
    straggler = _ERRORS <= draw < _ERRORS + _STRAGGLERS
    return Plan(503 if draw < _ERRORS else 200, chance.uniform(*(_STRAGGLER_S if straggler else _LATENCY_S)))


def make_app(airports: dict[str, Airport]) -> web.Application:
    """Create the application with its route `GET /airports/{iata}`.

    Args:
        airports: Airports by code.
    """
    app = web.Application()
    app[_AIRPORTS] = airports
    app[_ATLAS] = Atlas(airports)
    app.router.add_get("/airports/{iata}", _get_airport)
    return app


async def _get_airport(request: web.Request) -> web.Response:
    code = request.match_info["iata"]
    airport = request.app[_AIRPORTS].get(code)
    if airport is None:
        return web.json_response({"error": "no such airport"}, status=404)
    plan = plan_of(code)
    await asyncio.sleep(plan.latency_s)
    if plan.status != 200:
        return web.json_response({"error": "try again later"}, status=plan.status)
    found = request.app[_ATLAS].nearest(airport)
    nearest = None if found is None else {"iata": found[0].iata, "name": found[0].name, "km": round(found[1], 1)}
    return web.json_response({"elevation_m": airport.elevation_m, "time_zone": airport.time_zone, "nearest": nearest})


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def wait_for_eof() -> None:
        with suppress(OSError, ValueError):
            sys.stdin.buffer.read()
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stopped.set)

    threading.Thread(target=wait_for_eof, name="stdin", daemon=True).start()
    runner = web.AppRunner(make_app(load_airports()), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
        sys.stdout.flush()
        await stopped.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and needs answers while it drains
    asyncio.run(_serve())
