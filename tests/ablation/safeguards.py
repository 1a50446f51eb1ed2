"""The safeguards: where each one is, how to take it out, and the test that then fails."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SAFEGUARDS", "Safeguard"]


@dataclass(frozen=True, slots=True)
class Safeguard:
    """One thing that keeps a promise.

    Args:
        name: For the table.
        file: Where it is.
        there: Its text, which occurs there once.
        gone: What stands in its place when it is taken out.
        test: The test that then fails.
    """

    name: str
    file: str
    there: str
    gone: str
    test: str


SCHEDULER = "flowrt/engine/worker.py"
LIFECYCLE = "flowrt/engine/batch_run.py"
HEDGING = "flowrt/engine/hedging.py"
AGAIN = "flowrt/engine/retry_queue.py"
RATE = "flowrt/policies/rate_limit.py"
BREAKER = "flowrt/policies/circuit_breaker.py"

SAFEGUARDS = (
    Safeguard(
        "fail-fast awaits the siblings",
        LIFECYCLE,
        "        while not self.over:\n            await self.changed()\n        cut = self.interrupted_by",
        "        while not self.over and self.failure is None:\n            await asyncio.sleep(0.001)\n        cut = self.interrupted_by",
        "tests/test_reliability.py::test_07_fail_fast_raises_the_original_after_the_siblings_ended",
    ),
    Safeguard(
        "stopping cancels what is in flight",
        LIFECYCLE,
        "slot.keeping:  # whose item has ended\n                task.cancel()",
        "slot.keeping:  # whose item has ended\n                pass",
        "tests/test_reliability.py::test_07_fail_fast_raises_the_original_after_the_siblings_ended",
    ),
    Safeguard(
        "a cancelled caller waits for the end",
        LIFECYCLE,
        '            self.stop("the batch was cancelled")\n',
        '            self.stop("the batch was cancelled")\n            raise\n',
        "tests/engine/test_state_machine.py::test_a_batch_that_is_stopped_at_any_step_leaves_nothing",
    ),
    Safeguard(
        "the concurrency bound",
        LIFECYCLE,
        "        self._vacant = batch.limit\n",
        "        self._vacant = 3 * batch.limit\n",
        "tests/test_reliability.py::test_in_flight_equals_the_limit_while_work_waits_and_never_exceeds_it",
    ),
    Safeguard(
        "a lowered limit takes slots away",
        SCHEDULER,
        "if self._vacant < 0 and not self._is_needed():  # the limit was lowered",
        "if self._vacant < -1_000 and not self._is_needed():  # the limit was lowered",
        "tests/engine/test_policy_pipeline.py::test_the_limit_of_a_running_batch_can_be_raised_and_lowered",
    ),
    Safeguard(
        "the slow consumer holds the batch back",
        "flowrt/engine/admission.py",
        "        self.free = limit\n",
        "        self.free = sys.maxsize\n",
        "tests/test_reliability.py::test_12_consumer_that_stops_reading_holds_the_batch_back",
    ),
    Safeguard(
        "context variables are isolated",
        SCHEDULER,
        "            if changed:  # the node set",
        "            if False:  # the node set",
        "tests/engine/test_batch_run.py::test_a_context_variable_that_a_node_sets_is_not_seen_by_the_next_item",
    ),
    Safeguard(
        "a node has its own copy of its input",
        "flowrt/engine/attempt.py",
        "return call(isolate(data))",
        "return call(data)",
        "tests/test_reliability.py::test_18_node_that_mutates_its_input_mutates_a_copy",
    ),
    Safeguard(
        "who does not stop is let go",
        LIFECYCLE,
        "        self._timers.append(self.loop.call_later(GRACE_S, self._abandon_all))\n\n    def",
        "\n    def",
        "tests/test_reliability.py::test_10_node_that_swallows_cancellation_is_abandoned_after_5_s",
    ),
    Safeguard(
        "a node's own CancelledError fails its item alone",
        SCHEDULER,
        'settle_exception(item, asyncio.CancelledError("the node raised CancelledError itself"))',
        'self.stop("cancelled")',
        "tests/test_reliability.py::test_10_node_that_raises_cancelled_error_fails_its_item_alone",
    ),
    Safeguard(
        "the item's span is current in the node",
        "flowrt/telemetry/tracing/instrument.py",
        "        item.span = (span, attach(Context(values)))\n",
        "        item.span = (span, attach(get_current()))\n",
        "tests/telemetry/tracing/test_instrument.py::test_spans_opened_by_the_node_nest_under_the_item_span",
    ),
    Safeguard(
        "a broken instrument is switched off",
        "flowrt/engine/instrument.py",
        '    def _disable(self, broken: Hook) -> None:\n        instrument = getattr(broken, "__self__", None)\n',
        '    def _disable(self, broken: Hook) -> None:\n        instrument = getattr(broken, "__self__", None)\n        raise\n',
        "tests/test_reliability.py::test_23_instrument_that_raises_is_counted_and_the_items_succeed",
    ),
    Safeguard(
        "backoff gives the slot to others",
        SCHEDULER,
        "                self._come_back(item, again)\n",
        "                await asyncio.sleep(again.delay_ns / 1e9)\n                self._come_back(item, again)\n",
        "tests/engine/test_policy_pipeline.py::test_a_failed_item_is_tried_again_after_its_wait_while_others_use_its_slot",
    ),
    Safeguard(
        "items in backoff are bounded",
        AGAIN,
        "        if not self._inputs.dry and not self._backoff.full:\n",
        "        if not self._inputs.dry:\n",
        "tests/engine/test_policy_pipeline.py::test_items_in_backoff_are_bounded_and_then_hold_admission",
    ),
    Safeguard(
        "what waits in backoff ends with its batch",
        AGAIN,
        "        left = [*self._due, *self._backoff.drain()]\n",
        "        left: list[ItemRecord] = []\n",
        "tests/engine/test_policy_pipeline.py::test_a_batch_over_its_time_ends_items_in_backoff_and_says_what_they_had",
    ),
    Safeguard(
        "the retry budget",
        "flowrt/policies/retry.py",
        "        if policy.budget is not None and self.spent",
        "        if policy.budget is not None and False and self.spent",
        "tests/engine/test_policy_pipeline.py::test_a_retry_storm_stops_at_the_budget",
    ),
    Safeguard(
        "a limit's line is first come, first served",
        RATE,
        "        return not self.line and self.window.fits(price, now_ns)\n",
        "        return self.window.fits(price, now_ns)\n",
        "tests/policies/test_rate_limit.py::test_waiters_start_in_the_order_of_asking_at_any_cost",
    ),
    Safeguard(
        "who is cancelled as it is admitted gives it back",
        RATE,
        "        elif queue is self._queue:\n            self.window.release(price)\n",
        "        elif queue is self._queue:\n            pass\n",
        "tests/policies/test_rate_limit.py::test_waiter_cancelled_in_the_tick_of_admission_is_not_charged",
    ),
    Safeguard(
        "a half-open circuit lets few through",
        BREAKER,
        "        if len(started) + self._probes_succeeded < self.probes:\n",
        "        if True:\n",
        "tests/policies/test_circuit_breaker.py::test_half_open_breaker_admits_one_probe_and_closes_on_success",
    ),
    Safeguard(
        "what began before is no probe",
        BREAKER,
        '        elif self.state == "half_open" and started_ns >= self._changed_ns and started_ns in self._probes_started:\n'
        "            self._probes_started.remove(started_ns)\n",
        '        elif self.state == "half_open":\n',
        "tests/policies/test_circuit_breaker.py::test_attempt_started_before_the_transition_is_not_a_probe",
    ),
    Safeguard(
        "a hedge that lost is cancelled and awaited",
        HEDGING,
        "        race.call_off()\n        await self._end_rivals(race)\n",
        "        race.over = True\n",
        "tests/engine/test_hedging.py::test_a_first_attempt_that_succeeds_first_wins_and_its_rival_has_ended_when_the_result_is_there",
    ),
    Safeguard(
        "an attempt that lost to its hedge is cancelled",
        HEDGING,
        "                race.worker.cancel()\n",
        "                pass\n",
        "tests/engine/test_hedging.py::test_a_straggler_gets_a_second_attempt_whose_success_is_the_item_s",
    ),
    Safeguard(
        "hedges are bounded by a share",
        "flowrt/policies/hedging.py",
        "        if self.hedged >= 1 + self.share * first_attempts:\n",
        "        if False:\n",
        "tests/engine/test_hedging.py::test_no_more_is_hedged_than_the_share_and_no_more_at_once_than_the_share_of_the_slots",
    ),
    Safeguard(
        "a hedge pays the rate",
        "flowrt/engine/policy_pipeline.py",
        "            ticket = self._gate.take(item.input_data)\n        except",
        "            return True, None\n        except",
        "tests/engine/test_hedging.py::test_a_rival_pays_the_rate_and_is_not_made_where_it_would_have_to_wait",
    ),
    Safeguard(
        "a result is seen after it was synced",
        "flowrt/journal/file.py",
        "            self._disk.sync(self._fd)\n        except",
        "            pass\n        except",
        "tests/journal/test_journal.py::test_item_is_reported_durable_only_after_its_sync",
    ),
    Safeguard(
        "a record's checksum is checked",
        "flowrt/journal/format.py",
        'return body if line[:9] == b"%08x " % crc32(body) and body[-1:]',
        "return body if body[-1:]",
        "tests/journal/test_recovery.py::test_flipped_bit_is_reported_by_the_offset_of_its_line",
    ),
    Safeguard(
        "what finished is not run again",
        SCHEDULER,
        "                if keeper is not None and self._finished_before(keeper, item):\n",
        "                if False:\n",
        "tests/engine/test_durability.py::test_a_later_batch_runs_only_what_no_earlier_one_finished",
    ),
    Safeguard(
        "an item is journaled before its result is told",
        SCHEDULER,
        "                if keeper is not None and keeper.wants(item) and not await self._is_kept(keeper, item, slot):\n"
        "                    return\n",
        "",
        "tests/engine/test_durability.py::test_an_item_is_in_the_journal_before_its_result_or_its_end_is_told",
    ),
    Safeguard(
        "a journal has one writer",
        "flowrt/journal/file.py",
        "                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "                pass\n",
        "tests/journal/test_journal.py::test_second_user_of_the_file_is_refused_at_once",
    ),
    Safeguard(
        "another input's journal is refused",
        "flowrt/journal/journal.py",
        "        if self._check_inputs and digest not in",
        "        if False and digest not in",
        "tests/journal/test_journal.py::test_item_with_another_input_is_refused_by_its_index",
    ),
)
