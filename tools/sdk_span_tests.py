"""Runs the OpenTelemetry SDK's own span tests against flowrt's item span: `make sdk-tests`.

The tests come from the SDK's source distribution of the installed version, which pip downloads into `.cache`. This
module is also the pytest plugin of that run: it puts an item span in the place of the SDK's span class.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, SpanLimits, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind

from flowrt.telemetry.tracing.ids import make_ids
from flowrt.telemetry.tracing.span import Additions, ItemSpan
from flowrt.telemetry.tracing.span_frame import SpanFrame

ROOT: Final = Path(__file__).parents[1]
FILES: Final = ("test_trace.py", "test_implementation.py", "test_span_processor.py", "export")
NOT_APPLICABLE: Final = {
    "test_default_sampler": "asserts the SDK's own class `Span`; an item span is a ReadableSpan",
}
"""Tests that do not apply to an item span, each with the reason."""


class SdkSpan(ItemSpan):
    """Item span with the constructor, the start and the processors of the SDK's span."""

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None = None,
        sampler: Any = None,  # noqa: ARG002  # this and the others that are unused belong to the SDK's signature
        trace_config: None = None,  # noqa: ARG002
        resource: Resource | None = None,
        attributes: Mapping[str, Any] | None = None,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
        kind: SpanKind = SpanKind.INTERNAL,
        span_processor: SpanProcessor | None = None,
        instrumentation_info: Any = None,
        record_exception: bool = True,  # noqa: ARG002  # `use_span` applies this and the next
        set_status_on_exception: bool = True,  # noqa: ARG002
        limits: SpanLimits = sdk._UnsetLimits,  # noqa: SLF001  # the SDK's default
        instrumentation_scope: InstrumentationScope | None = None,
        *,
        record_end_metrics: Callable[[], None] | None = None,
    ) -> None:
        frame = SpanFrame(
            name=name,
            resource=Resource.create({}) if resource is None else resource,
            scope=instrumentation_scope or InstrumentationScope(""),
            limits=limits,
            attributes=attributes or {},
            links=tuple(links),
            parent=parent,
            flags=context.trace_flags,
            trace_state=context.trace_state,
            recording=True,
            offset_ns=0,
            hand_over=self._ended,
        )
        frame.sampled = True  # the SDK ends spans that are only recorded through the processors too
        super().__init__(frame, make_ids(context.trace_id, context.span_id), 0, 0)
        self._context = context
        self._instrumentation_info = instrumentation_info
        self._kind = kind
        self._processor = span_processor or SpanProcessor()
        self._record_end_metrics = record_end_metrics
        self.additions = Additions(self)
        # replaces attributes that only item spans have
        self.additions.attributes = BoundedAttributes(
            limits.max_span_attributes, attributes, immutable=False, max_value_len=limits.max_span_attribute_length
        )
        for event in events or ():
            self.add_event(event.name, event.attributes, event.timestamp)

    @property
    def kind(self) -> SpanKind:
        return self._kind

    @property
    def start_time(self) -> int | None:  # type: ignore[override]
        return self.start_ns or None

    def start(self, start_time: int | None = None, parent_context: Context | None = None) -> None:
        if self.start_ns:
            sdk.logger.warning("Calling start() on a started span.")
            return
        self.start_ns = time.time_ns() if start_time is None else start_time
        self._processor.on_start(self, parent_context=parent_context)  # type: ignore[arg-type]

    def _ended(self, _span: Any) -> None:
        if self._record_end_metrics is not None:
            self._record_end_metrics()
        self._processor._on_ending(self)  # type: ignore[arg-type]  # noqa: SLF001
        self._processor.on_end(self.readable())


def pytest_configure(config: Any) -> None:  # noqa: ARG001  # pytest's signature
    """Replace the SDK's span class."""
    sdk._Span = SdkSpan  # type: ignore[misc,assignment]  # noqa: SLF001


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Deselect the tests that do not apply."""
    left_out = [item for item in items if item.name in NOT_APPLICABLE]
    items[:] = [item for item in items if item.name not in NOT_APPLICABLE]
    config.hook.pytest_deselected(items=left_out)


def download() -> tuple[Path, Path]:
    """Download the SDK's tests and their helpers unless they are in the cache.

    Returns:
        The folder with the tests, and the one with their helpers.
    """
    sdk_version, utils_version = version("opentelemetry-sdk"), version("opentelemetry-semantic-conventions")
    cache = ROOT / ".cache" / f"opentelemetry-sdk-{sdk_version}"
    tests = cache / f"opentelemetry_sdk-{sdk_version}" / "tests" / "trace"
    if not tests.exists():  # extracted last
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache))
        subprocess.run([*pip, f"opentelemetry-test-utils=={utils_version}"], check=True)  # noqa: S603
        subprocess.run([*pip, "--no-binary=opentelemetry-sdk", f"opentelemetry-sdk=={sdk_version}"], check=True)  # noqa: S603
        with zipfile.ZipFile(next(cache.glob("opentelemetry_test_utils-*.whl"))) as wheel:
            wheel.extractall(cache / "helpers")  # noqa: S202  # the project's own release, over HTTPS
        with tarfile.open(next(cache.glob("opentelemetry_sdk-*.tar.gz"))) as archive:
            archive.extractall(cache, filter="data")
    return tests, cache / "helpers"


if __name__ == "__main__":
    folder, helpers = download()
    command = [sys.executable, "-m", "pytest", "-p", "tools.sdk_span_tests", "-p", "no:cacheprovider", "-q"]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),  # a test runs python
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(helpers))),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins of flowrt's own tests do not fit these
    }
    command += ["--rootdir", str(folder), "-c", os.devnull, *FILES, *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=folder, env=environment, check=False).returncode)  # noqa: S603
