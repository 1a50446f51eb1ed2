"""Settings of the Ray executor that are refused without a cluster."""

from __future__ import annotations

import pytest

from flowrt import RayExecutor


def test_address_of_a_ray_client_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"'ray://head:10001' is a Ray client's.*ray job submit.*address='auto'"):
        RayExecutor(address="ray://head:10001")


@pytest.mark.parametrize("settings", [{"actors": 0}, {"actors": 1.5}, {"max_crashes": 0}, {"start_timeout": 0}])
def test_setting_out_of_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RayExecutor(**settings)  # type: ignore[arg-type]
