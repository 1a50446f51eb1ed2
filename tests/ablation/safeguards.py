"""Safeguards: code that keeps a promise of flowrt, what replaces that code, and the test that then fails."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from tests.ablation.edits import Undo, edit

__all__ = ["SAFEGUARDS", "Safeguard", "named"]


@dataclass(frozen=True, slots=True)
class Safeguard:
    """Code that keeps a promise of flowrt.

    Args:
        name: The promise, in words.
        where: The function with the code, as `module:Class.function` or `module:function`, below `flowrt`.
        code: An expression or statements of that function.
        replacement: The code in its place once the safeguard is removed.
        test: Id of the test that then fails.
    """

    name: str
    where: str
    code: str
    replacement: str
    test: str

    def remove(self) -> Undo:
        """Replace the code in this process.

        Returns:
            A function that restores the code.

        Raises:
            LookupError: The function does not have that code.
        """
        module, _, path = self.where.partition(":")
        owner = importlib.import_module(f"flowrt.{module}")
        *classes, function = path.split(".")
        for name in classes:
            owner = getattr(owner, name)
        return edit(owner, function, (self.code, self.replacement))


def named(name: str) -> Safeguard:
    """Return the safeguard of that name."""
    return next(safeguard for safeguard in SAFEGUARDS if safeguard.name == name)


SAFEGUARDS = (
    Safeguard(
        "fail-fast awaits the siblings",
        "engine.batch_run:BatchRun.join",
        "while not self.over:\n    try:\n        await self.waiter()\n    except asyncio.CancelledError as exc:\n"
        "        self.interrupt(exc)",
        "while not self.over and self._cancellation.failure is None:\n    await asyncio.sleep(0.001)",
        "tests/test_reliability.py::test_07_fail_fast_raises_the_original_after_the_siblings_ended",
    ),
    Safeguard(
        "stopping cancels what is in flight",
        "engine.cancellation:Cancellation.stop",
        "slot.task.cancel()",
        "None",
        "tests/test_reliability.py::test_07_fail_fast_raises_the_original_after_the_siblings_ended",
    ),
    Safeguard(
        "a cancelled caller waits for the end",
        "engine.batch_run:BatchRun.interrupt",
        'self.stop("the batch was cancelled")',
        'self.stop("the batch was cancelled")\nraise cancelled',
        "tests/engine/test_state_machine.py::test_batch_stopped_at_any_step_leaves_nothing",
    ),
    Safeguard(
        "the concurrency bound",
        "engine.worker_pool:WorkerPool.__init__",
        "self.vacant = parts.batch.limit",
        "self.vacant = 3 * parts.batch.limit",
        "tests/test_reliability.py::test_in_flight_equals_the_limit_while_work_waits_and_never_exceeds_it",
    ),
    Safeguard(
        "a lowered limit takes slots away",
        "engine.worker:Worker.run",
        "pool.vacant < 0",
        "pool.vacant < -1_000",
        "tests/engine/test_policy_pipeline.py::test_limit_of_a_running_batch_can_be_raised_and_lowered",
    ),
    Safeguard(
        "a raised limit adds permits for results",
        "engine.admission:Admission.resize",
        "more > 0 and not self.closed",
        "False",
        "tests/engine/test_admission.py::test_raised_limit_of_a_running_stream_admits_more",
    ),
    Safeguard(
        "a slow consumer holds the batch back",
        "engine.admission:Admission.__init__",
        "self._limit = self.free = sys.maxsize if limit is None else limit",
        "self._limit = self.free = sys.maxsize",
        "tests/test_reliability.py::test_12_consumer_that_stops_reading_holds_the_batch_back",
    ),
    Safeguard(
        "context variables are isolated",
        "engine.worker:Worker.run",
        "self._context.copy()",
        "self._context",
        "tests/engine/test_worker.py::test_context_variable_does_not_reach_the_next_item",
    ),
    Safeguard(
        "a stray cancellation ends its item alone",
        "engine.cancellation:Cancellation.interrupted",
        "cancel(item, _STRAY)",
        "self.stop(_STRAY)\ncancel(item, _STRAY)",
        "tests/engine/test_worker.py::test_stray_cancel_ends_its_item_alone",
    ),
    Safeguard(
        "a cancellation before the first step waits",
        "engine.item_task:ItemTask.cancel",
        "inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED",
        "False",
        "tests/engine/test_worker.py::test_cancel_before_the_first_step_takes_effect_after_it",
    ),
    Safeguard(
        "a source runs in one context",
        "engine.source:IteratorSource.start",
        "self._advance = partial(context.run, self._advance)",
        "pass",
        "tests/engine/test_source.py::test_source_generator_keeps_its_context_variable",
    ),
    Safeguard(
        "a node has its own copy of its input",
        "engine.attempt:make_direct",
        "data = isolate(data)",
        "pass",
        "tests/test_reliability.py::test_18_node_that_mutates_its_input_mutates_a_copy",
    ),
    Safeguard(
        "a node has its own copy of a flat input",
        "engine.attempt:make_direct",
        "data = data.copy()",
        "pass",
        "tests/engine/test_attempt.py::test_node_that_changes_a_flat_input_changes_a_copy",
    ),
    Safeguard(
        "an item that does not stop is abandoned",
        "engine.cancellation:Cancellation.stop",
        "self._abandon_later()",
        "pass",
        "tests/test_reliability.py::test_10_node_that_swallows_cancellation_is_abandoned_after_5_s",
    ),
    Safeguard(
        "a node's own CancelledError fails its item alone",
        "engine.cancellation:Cancellation.interrupted",
        'settle_exception(item, asyncio.CancelledError("the node raised CancelledError itself"))',
        'self.stop("cancelled")',
        "tests/test_reliability.py::test_10_node_that_raises_cancelled_error_fails_its_item_alone",
    ),
    Safeguard(
        "the item's span is current in the node",
        "telemetry.tracing.instrument:TracingInstrument.item_started",
        "attach(Context(values))",
        "attach(get_current())",
        "tests/telemetry/tracing/test_instrument.py::test_spans_opened_by_the_node_nest_under_the_item_span",
    ),
    Safeguard(
        "a broken instrument is switched off",
        "engine.instrument:Dispatch.disable",
        'instrument = getattr(broken, "__self__", None)',
        "raise",
        "tests/test_reliability.py::test_23_instrument_that_raises_is_counted_and_the_items_succeed",
    ),
    Safeguard(
        "backoff gives the slot to others",
        "engine.worker:Worker.run",
        "self._requeue(item, retry)",
        "await asyncio.sleep(retry.delay_ns / 1e9)\nself._requeue(item, retry)",
        "tests/engine/test_policy_pipeline.py::test_failed_item_is_retried_after_its_backoff_as_others_use_its_slot",
    ),
    Safeguard(
        "items in backoff are bounded",
        "engine.retry_queue:RetryQueue.pull",
        "not self._full and not self._inputs_ended",
        "not self._inputs_ended",
        "tests/engine/test_policy_pipeline.py::test_items_in_backoff_are_bounded_and_then_hold_back_admission",
    ),
    Safeguard(
        "items in backoff end with their batch",
        "engine.retry_queue:RetryQueue.take_requeued",
        "[*self._ready, *self._parked.values(), *self._backoff.drain()]",
        "[]",
        "tests/engine/test_policy_pipeline.py::test_batch_timeout_cancels_items_in_backoff_and_names_their_error",
    ),
    Safeguard(
        "the retry budget",
        "policies.retry:Retries.decide",
        "self.spent >= policy.budget_minimum + policy.budget * first_attempts",
        "False",
        "tests/engine/test_policy_pipeline.py::test_retry_storm_stops_at_the_budget",
    ),
    Safeguard(
        "a rate limit's line is first come, first served",
        "policies.waiting_line:WaitingLine.free",
        "not self.waiting and self.window.fits(price, now_ns)",
        "self.window.fits(price, now_ns)",
        "tests/policies/test_rate_limit.py::test_waiters_start_in_the_order_of_asking_at_any_cost",
    ),
    Safeguard(
        "a waiter cancelled as it is admitted is not charged",
        "policies.waiting_line:WaitingLine._withdraw",
        "self.window.release(place.price)",
        "None",
        "tests/policies/test_rate_limit.py::test_waiter_cancelled_in_the_tick_of_admission_is_not_charged",
    ),
    Safeguard(
        "a half-open circuit admits few",
        "policies.circuit_breaker:CircuitBreaker.wait_ns",
        "len(started) + self._probes_succeeded < self.probes",
        "True",
        "tests/policies/test_circuit_breaker.py::test_half_open_breaker_admits_one_probe_and_closes_on_success",
    ),
    Safeguard(
        "an attempt from before is no probe",
        "policies.circuit_breaker:CircuitBreaker.record",
        'self.state == "half_open" and started_ns >= self._changed_ns and started_ns in self._probes_started',
        'self.state == "half_open"',
        "tests/policies/test_circuit_breaker.py::test_attempt_started_before_the_transition_is_not_a_probe",
    ),
    Safeguard(
        "a hedge that lost is cancelled and awaited",
        "engine.hedging:Hedging._decide",
        "race.cancel_hedges()\nawait self._end_hedges(race)",
        "race.over = True",
        "tests/engine/test_hedging.py::test_winning_first_attempt_cancels_and_awaits_its_hedge",
    ),
    Safeguard(
        "an attempt that lost to its hedge is cancelled",
        "engine.hedging:Hedging._conclude",
        "race.worker.cancel()",
        "None",
        "tests/engine/test_hedging.py::test_winning_hedge_gives_the_result_and_cancels_the_first_attempt",
    ),
    Safeguard(
        "hedges are bounded by a share",
        "policies.hedging:HedgeTracker.due",
        "self.hedged >= 1 + self.share * first_attempts",
        "False",
        "tests/engine/test_hedging.py::test_hedges_stay_within_the_share_of_items_and_of_slots",
    ),
    Safeguard(
        "a hedge pays the rate",
        "engine.policy_pipeline:PolicyPipeline.enter_hedge",
        "ticket = self._rate_limiter.take(item.input_data)",
        "return True, None",
        "tests/engine/test_hedging.py::test_hedge_pays_the_rate_and_is_skipped_if_it_had_to_wait",
    ),
    Safeguard(
        "a result is delivered after it was synced",
        "journal.file:JournalFile.extend",
        "self._disk.sync(self._fd)",
        "None",
        "tests/journal/test_journal.py::test_item_is_reported_durable_only_after_its_sync",
    ),
    Safeguard(
        "a record's checksum is checked",
        "journal.format:body_of",
        'line[:9] == b"%08x " % crc32(body) and body[-1:] == b"\\n"',
        'body[-1:] == b"\\n"',
        "tests/journal/test_recovery.py::test_flipped_bit_is_reported_by_the_offset_of_its_line",
    ),
    Safeguard(
        "a finished item is not run again",
        "engine.worker:Worker._admit",
        "self._journal is not None and self._cancellation.finish_restored(item)",
        "False",
        "tests/engine/test_durability.py::test_later_batch_runs_only_items_that_no_earlier_batch_finished",
    ),
    Safeguard(
        "an item is journaled before its result is delivered",
        "engine.worker:Worker.run",
        "journal is not None and journal.wants(item) and not await self._cancellation.write(item, slot)",
        "False",
        "tests/engine/test_durability.py::test_item_is_journaled_before_its_result_or_its_end_is_reported",
    ),
    Safeguard(
        "a journal has one writer",
        "journal.file:JournalFile._claim",
        "fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "None",
        "tests/journal/test_journal.py::test_second_user_of_the_file_is_refused_at_once",
    ),
    Safeguard(
        "another input's journal is refused",
        "journal.journal:Journal.restore",
        "self._check_inputs and digest not in (NO_DIGEST, digest_of_item(input_data))",
        "False",
        "tests/journal/test_journal.py::test_item_with_another_input_is_refused_by_its_index",
    ),
    Safeguard(
        "a batch that is ended before its input says so",
        "engine.cancellation:Cancellation._close_admission",
        "self.cut_off = cut_off",
        "pass",
        "tests/engine/test_unstarted.py::test_raise_for_failures_raises_for_a_batch_ended_before_its_input",
    ),
    Safeguard(
        "a source's own CancelledError is not the caller's",
        "engine.outcome:as_source_error",
        "not isinstance(exc, asyncio.CancelledError)",
        "True",
        "tests/engine/test_batch_run.py::test_task_group_fails_if_a_source_raises_cancelled_error_itself",
    ),
    Safeguard(
        "an output has one writer",
        "_util.atomic_file:_lock",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "None",
        "tests/_util/test_atomic_file.py::test_output_that_another_run_writes_is_refused_and_left_alone",
    ),
)
