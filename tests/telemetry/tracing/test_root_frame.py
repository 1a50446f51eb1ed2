"""Root frame of a Runtime's provider: batch spans without a parent derive their frames from it."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased

from flowrt.telemetry.tracing.setup import make_provider


class OwnIds(RandomIdGenerator):
    """An id generator of the application's."""


def test_root_frame_is_kept_for_later_batches() -> None:
    provider = make_provider(Resource({"service.name": "tested"}))
    root = provider.root_frame()
    assert root is not None
    assert provider.root_frame() is root
    assert root.recording
    assert root.sampled
    assert root.parent is None
    assert root.resource is provider.resource


def test_root_frame_follows_a_changed_sampler() -> None:
    provider = make_provider(Resource({}))
    for sampler, known in (
        (ALWAYS_ON, True),
        (ALWAYS_OFF, False),
        (ParentBased(ALWAYS_ON), True),
        (TraceIdRatioBased(0.5), False),
    ):
        provider.sampler = sampler
        assert (provider.root_frame() is not None) is known


def test_root_frame_follows_a_changed_id_generator() -> None:
    provider = make_provider(Resource({}))
    assert provider.root_frame() is not None
    provider.id_generator = OwnIds()
    assert provider.root_frame() is None
