"""Reports of finished batches: figures computed from attempts, as text, HTML, JSON and in notebooks."""

from __future__ import annotations
