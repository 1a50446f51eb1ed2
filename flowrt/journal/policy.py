"""JournalPolicy: a batch's settings for its journal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowrt.journal.fingerprint import digest_of_item, name_of_node
from flowrt.journal.journal import Journal
from flowrt.model.node import BaseNode

__all__ = ["JournalPolicy"]


@dataclass(frozen=True, slots=True)
class JournalPolicy:
    """Where a batch journals its finished items, and which journals it may resume from.

    Args:
        path: The journal; created with mode 0600 if missing, else resumed from.
        retry_failed: True to run items again that did not end ok.
        fingerprint: Further values that identify the run, such as a model's name or a prompt's version: JSON values by
            name. The node's id, type, code and config are always part of it. The journal stores it in plain text.
        check_inputs: True to keep a checksum of each item's input, and to refuse to resume with another input.

    Raises:
        TypeError: The path is not a path, the fingerprint not a mapping, or a switch not a bool.
        ValueError: The path is empty.

    Example:
        >>> import flowrt
        >>> flowrt.JournalPolicy("run.journal", retry_failed=True, fingerprint={"prompt": 3}).retry_failed
        True
    """

    path: str | os.PathLike[str]
    retry_failed: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    check_inputs: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise TypeError(f"a journal's path must be a str or a Path, not {self.path!r}")
        if not os.fspath(self.path):
            raise ValueError("a journal's path must not be empty: name a file")
        if not isinstance(self.fingerprint, Mapping):
            raise TypeError(f"fingerprint must be a mapping of names to JSON values, not {self.fingerprint!r}")
        for name in ("retry_failed", "check_inputs"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")

    @classmethod
    def of(cls, choice: Any) -> JournalPolicy | Journal | None:
        """Turn a path into a policy; return a policy, an open journal and None unchanged.

        Raises:
            TypeError: `choice` is anything else.
            ValueError: The path is empty.
        """
        if choice is None or isinstance(choice, (cls, Journal)):
            return choice
        if isinstance(choice, (str, os.PathLike)):
            return cls(choice)
        raise TypeError(f"journal must be a path, a flowrt.JournalPolicy(...) or None, not {choice!r}")

    def open(self, node: BaseNode) -> Journal:
        """Open the journal for a run of a node; reading an existing one takes about 2 s per million items.

        Args:
            node: The node that runs; the journal keeps only a checksum of its config.

        Raises:
            JournalMismatchError: The journal belongs to another run.
            JournalDamagedError: The journal is damaged before its end.
            JournalDiskError: The disk is full, read-only, or failed.
            JournalInUseError: Another run has it open.
            ValueError: The path cannot be a journal's, or the fingerprint is not JSON.
        """
        known = {**name_of_node(node), "config": digest_of_item(node.config).decode("ascii"), **self.fingerprint}
        return Journal(self.path, known, check_inputs=self.check_inputs, retry_failed=self.retry_failed)
