"""Attributes that many batches share are encoded as each attribute is by itself."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowrt.telemetry.tracing.otlp_encoding import shared_attributes
from flowrt.telemetry.tracing.otlp_messages import attributes_field

IDS = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.just("ü" * 32),
    st.just("\udc80" * 32),
    st.text(max_size=33),
    st.integers(),
    st.lists(st.integers(), min_size=32, max_size=32),
)
VALUES = st.one_of(
    st.sampled_from([0, 1, True, False, 1.0, 0.0, -0.0, "1", b"1", None, 2**70]),
    st.text(),
    st.lists(st.booleans()),
)


@given(st.dictionaries(st.text(), VALUES), IDS)
def test_shared_attributes_are_encoded_as_any_other(attributes: dict[str, Any], batch_id: Any) -> None:
    attributes["flowrt.batch.id"] = batch_id
    assert shared_attributes(attributes) == attributes_field(9, attributes)[0]
