"""What a finished batch came to, worked out from the times of its attempts and shown in several forms."""

from __future__ import annotations
