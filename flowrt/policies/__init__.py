"""Policies: retries, rate limits, adaptive concurrency, circuit breaker and hedging.

Each policy is a plain object that the caller creates and passes to a batch. Its decisions depend only on the arguments
of its methods; times are arguments, too. A policy needs only the standard library and flowrt's own records.
"""

from __future__ import annotations

from flowrt.policies.adaptive_concurrency import AdaptiveLimit, LimitChange, LimitController
from flowrt.policies.cache import Cache
from flowrt.policies.circuit_breaker import CircuitBreaker, CircuitOpenError, Transition
from flowrt.policies.error_classification import kind_of, retry_after_of, status_of
from flowrt.policies.hedging import Hedge, HedgeTracker
from flowrt.policies.rate_limit import CostTooHighError, RateLimit, Reservation
from flowrt.policies.rate_limiter import RateLimiter, Ticket
from flowrt.policies.retry import Retries, Retry, RetryPolicy

__all__ = [
    "AdaptiveLimit",
    "Cache",
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
