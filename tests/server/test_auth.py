"""Access checks: all forms of the token."""

from __future__ import annotations

import asyncio
import base64

import pytest

from flowrt.server.app import asgi_app
from flowrt.server.auth import guarded
from tests.server.test_app import ask


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer horse",
        "bearer horse",
        "Bearer  horse",
        basic("anybody:horse"),
        basic(":horse"),
        "basic eDpob3JzZQ==",
    ],
)
def test_token_passes_as_bearer_or_as_any_users_password(authorization: str) -> None:
    assert ask(guarded(asgi_app(), "horse"), "/healthz", authorization=authorization).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "horse", "Bearer", "Bearer horses", basic("horse"), basic("horse:"), "Basic !!!", "Digest horse"],
)
@pytest.mark.parametrize("path", ["/", "/live/events", "/live/state", "/live/page.js", "/metrics", "/nope"])
def test_other_credentials_get_401(authorization: str, path: str) -> None:
    app = guarded(asgi_app(), "horse")
    assert ask(app, path, authorization=authorization).status_code == 401


def test_token_may_hold_a_colon_and_non_ascii_letters() -> None:
    app = guarded(asgi_app(), "pf:ärd")
    assert ask(app, "/healthz", authorization=basic("me:pf:ärd")).status_code == 200


def test_websocket_of_a_foreign_host_is_refused() -> None:
    async def main() -> list[object]:
        sent: list[object] = []

        async def send(message: object) -> None:
            sent.append(message)

        scope = {"type": "websocket", "headers": [(b"host", b"evil.example")]}
        await guarded(asgi_app())(scope, send, send)  # type: ignore[arg-type]
        return sent

    assert asyncio.run(main()) == [{"type": "websocket.close", "code": 1008}]
