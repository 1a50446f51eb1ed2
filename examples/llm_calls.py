"""Call a language model within its budgets of requests and tokens.

A local server stands in for the model: it allows 50 requests and 4,000 tokens in any second and answers 429 with
Retry-After beyond that. The first batch finds the limits by being refused. The second keeps to nine tenths of them, in
small bursts, since calls do not arrive exactly when they are sent.

Needs: flowrt, aiohttp. Prints:

    without limits: 100 ok, refused … times
    within the budgets: 100 ok, refused … times
    tokens a second at most: … of 4,000
    the batch was held back by: rate_limit
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import aiohttp
from aiohttp import web

import flowrt
from flowrt import NodeResult, RateLimit, RetryPolicy

REQUESTS, TOKENS = 50, 4_000  # what the service allows in a second
MAX_ANSWER = 40  # tokens


class Model:
    """Server with the limits that providers of language models have."""

    def __init__(self) -> None:
        self.refused = 0
        self.most_tokens = 0
        self._recent: deque[tuple[float, int]] = deque()

    async def complete(self, request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        tokens = len(prompt) // 4 + MAX_ANSWER // 2
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - 1:
            self._recent.popleft()
        used = sum(count for _, count in self._recent)
        if len(self._recent) >= REQUESTS or used + tokens > TOKENS:
            self.refused += 1
            return web.json_response({"error": "rate limited"}, status=429, headers={"Retry-After": "0.5"})
        self._recent.append((now, tokens))
        self.most_tokens = max(self.most_tokens, used + tokens)
        await asyncio.sleep(0.05)
        return web.json_response({"text": prompt[:20].upper(), "tokens": tokens})


class Ask(flowrt.BaseNode):
    """Sends one prompt and reports the tokens that it used."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        super().__init__("ask")
        self._url, self._session = url, session

    async def execute(self, node_context: Any, workflow_context: Any) -> NodeResult:
        async with self._session.post(self._url, json={"prompt": node_context.input_data}) as answer:
            answer.raise_for_status()  # flowrt reads status and Retry-After from the exception
            body = await answer.json()
            return NodeResult(True, body["text"], metadata={"tokens": body["tokens"]})


def estimate(prompt: str) -> int:
    """Tokens of a prompt and its answer at most; the real number is charged when the answer is there."""
    return len(prompt) // 4 + MAX_ANSWER


async def main() -> None:
    prompts = [f"Summarise document {number}: " + "words " * (number % 60) for number in range(100)]
    model = Model()
    app = web.Application()
    app.router.add_post("/complete", model.complete)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/complete"

    async with aiohttp.ClientSession() as session:
        node = Ask(url, session)
        patient = RetryPolicy(50, budget=None)  # for the demonstration: refused calls are tried until they pass
        results = await flowrt.map(node, prompts, max_concurrency=100, retry=patient)
        print(f"without limits: {len(results.succeeded)} ok, refused {model.refused} times")

        await asyncio.sleep(1)
        model.refused = model.most_tokens = 0
        results = await flowrt.map(
            node,
            prompts,
            max_concurrency=100,
            retry=RetryPolicy(3),
            rate_limit=[
                RateLimit(REQUESTS * 0.9, per=1.0, burst=5),
                RateLimit(TOKENS * 0.9, per=1.0, burst=400, cost=estimate, actual="tokens"),
            ],
        )
        # 0 times, unless a busy machine delays the calls
        print(f"within the budgets: {len(results.succeeded)} ok, refused {model.refused} times")
        print(f"tokens a second at most: {model.most_tokens:,} of {TOKENS:,}")
        bound_by = results.report.bound_by
        print("the batch was held back by:", max(bound_by, key=lambda cause: bound_by[cause]))
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
