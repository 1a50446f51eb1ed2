"""Policies: when to try again, how fast to go, how much at once, when to stop asking.

Each policy is a plain object that a caller makes and hands over; what it decides depends on nothing but what it is
told, times included. The standard library and flowrt's own records are all that it needs.
"""

from __future__ import annotations

from flowrt.policies.adaptive_concurrency import AdaptiveLimit, LimitChange, LimitController
from flowrt.policies.circuit_breaker import CircuitBreaker, CircuitOpenError, Transition
from flowrt.policies.error_classification import kind_of, retry_after_of, status_of
from flowrt.policies.hedging import Hedge, HedgeTracker
from flowrt.policies.rate_limit import CostTooHighError, RateLimit, Reservation
from flowrt.policies.rate_limiter import RateLimiter, Ticket
from flowrt.policies.retry import Retries, Retry, RetryPolicy

__all__ = [
    "AdaptiveLimit",
    "CircuitBreaker",
    "CircuitOpenError",
    "CostTooHighError",
    "Hedge",
    "HedgeTracker",
    "LimitChange",
    "LimitController",
    "RateLimit",
    "RateLimiter",
    "Reservation",
    "Retries",
    "Retry",
    "RetryPolicy",
    "Ticket",
    "Transition",
    "kind_of",
    "retry_after_of",
    "status_of",
]
