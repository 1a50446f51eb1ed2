"""Access checks: all forms of the token."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

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


def statuses(headers: list[tuple[bytes, bytes]], token: str | None = None) -> int:
    async def main() -> int:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": headers}
        await guarded(asgi_app(), token)(scope, send, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])

    return asyncio.run(main())


OWN, FOREIGN = (b"origin", b"http://localhost"), (b"origin", b"http://evil.example")


@pytest.mark.parametrize(
    ("origins", "status"),
    [([OWN, OWN], 200), ([FOREIGN, OWN], 403), ([OWN, FOREIGN], 403), ([FOREIGN, OWN, OWN], 403)],
)
def test_every_origin_header_must_be_own(origins: list[tuple[bytes, bytes]], status: int) -> None:
    assert statuses([(b"host", b"localhost"), *origins]) == status


@pytest.mark.parametrize("hosts", [(b"evil.example", b"localhost"), (b"localhost", b"evil.example")])
def test_every_host_header_must_be_loopback(hosts: tuple[bytes, bytes]) -> None:
    assert statuses([(b"host", host) for host in hosts]) == 421


def test_every_authorization_header_must_hold_the_token() -> None:
    right, wrong = (b"authorization", b"Bearer horse"), (b"authorization", b"Bearer mule")
    assert statuses([right, right], "horse") == 200
    assert statuses([wrong, right], "horse") == 401
    assert statuses([right, wrong], "horse") == 401
