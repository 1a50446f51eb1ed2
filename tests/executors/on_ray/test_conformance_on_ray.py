"""The conformance suite with Ray's actors as the executor."""

from __future__ import annotations

from tests.executors import test_conformance as suite

globals().update({name: test for name, test in vars(suite).items() if name.startswith("test_")})  # not its fixtures
