"""Readers: opens the inputs of a command as one stream of items."""

from __future__ import annotations

import glob
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import Any

from flowrt.cli.exit_codes import CommandError
from flowrt.cli.io.formats import is_url
from flowrt.cli.io.prefetch import Prefetcher, prefetch
from flowrt.cli.io.remote import expand_url
from flowrt.cli.io.sources import Source, open_source, standard_stream
from flowrt.cli.options.input import InputOptions
from flowrt.model import Rejected

__all__ = ["Input", "open_input"]


@dataclass(slots=True)
class Input:
    """The opened inputs of a command.

    Attributes:
        feed: The items.
        files: File status of each local file, to recognize other names of it.
        format: Format, or several joined by commas.
        digest: Computes the digest of the content; None for a stream, which can be read only once.
        close: Closes the files, once the feed has been closed.
        finite: The input ends: it is no pipe or terminal.
        rejected: Indices of the items that could not be read so far, if they are noted.
    """

    feed: Prefetcher
    files: list[os.stat_result]
    format: str
    digest: Callable[[], str] | None
    close: Callable[[], None]
    finite: bool = True
    rejected: set[int] = field(default_factory=set)


def open_input(paths: Sequence[str], options: InputOptions | None = None, *, note_rejected: bool = False) -> Input:
    """Open inputs, and check as much of them as possible before the first item.

    Args:
        paths: Files, patterns such as `logs/*.jsonl`, folders of Parquet files, URLs, or - for standard input.
        options: Options of the input.
        note_rejected: Note the indices of the items that could not be read.

    Raises:
        CommandError: An input does not exist, cannot be read, or its format is not known.
        MissingExtraError: The package that reads an input is not installed.
    """
    options = options or InputOptions()
    expanded = [name for path in paths for name in _expanded(path)]
    sources = _Sources(expanded, options)
    rejected: set[int] = set()
    chunks = _selected(sources.chunks(), options)
    if note_rejected:
        chunks = _with_rejected_noted(chunks, rejected)
    feed = prefetch(chunks, sources.interrupt, _expected(sources.expected, options))
    formats = ",".join(sorted(sources.formats))
    return Input(feed, sources.files, formats, sources.digest, sources.close, sources.finite, rejected)


def _expanded(path: str) -> list[str]:
    """Expand a pattern that the shell has not expanded, as in quotes."""
    if is_url(path):
        return expand_url(path)
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207  # strings throughout
    if not found:
        raise CommandError(f"input {path!r} matches no file")
    return found


class _Sources:
    """Inputs that are read one after the other.

    Each is checked at once. Of several, files are closed again until their turn comes, so that their number is not
    limited by the number of files that a process may open.
    """

    def __init__(self, paths: list[str], options: InputOptions) -> None:
        if sum(standard_stream(path) == 0 or path == "-" for path in paths) > 1:
            raise CommandError("standard input can be read only once")
        self.files: list[os.stat_result] = []
        self.formats: set[str] = set()
        self.finite = True
        self._paths = paths
        self._options = options
        self._opened: dict[int, Source] = {}
        self._current: Source | None = None
        self._stopped = False
        counts: list[int | None] = []
        has_digest = True
        try:
            for number, path in enumerate(paths):
                source = self._opened[number] = open_source(path, options)
                self.formats.add(source.format)
                self.files += [] if source.status is None else [source.status]
                counts.append(source.expected)
                is_stream = source.status is not None and source.digest is None
                self.finite = self.finite and not is_stream
                has_digest = has_digest and source.digest is not None
                if len(paths) > 1 and not is_stream:
                    self._opened.pop(number).close()
        except BaseException:
            self.close()
            raise
        self.expected = None if None in counts else sum(count for count in counts if count is not None)
        self.digest = self._digest if has_digest else None

    def _digest(self) -> str:
        digests = []
        for number, path in enumerate(self._paths):
            source = self._opened.get(number) or open_source(path, self._options, count=False)
            try:
                assert source.digest is not None  # noqa: S101  # checked before
                digests.append(source.digest())
            finally:
                if number not in self._opened:
                    source.close()
        if len(digests) == 1:
            return digests[0]
        return f"{len(digests)} files, blake2b {blake2b(' '.join(digests).encode(), digest_size=16).hexdigest()}"

    def chunks(self) -> Iterator[list[Any]]:
        """Yield the items of all sources in lists."""
        for number, path in enumerate(self._paths):
            if self._stopped:
                return
            source = self._opened.get(number)
            if source is None:
                source = self._opened[number] = open_source(path, self._options, count=False)
            self._current = source
            yield from source.chunks
            if len(self._paths) > 1:
                self._current = None
                self._opened.pop(number).close()

    def interrupt(self) -> None:
        """End `chunks` from another thread."""
        self._stopped = True
        current = self._current
        if current is not None:
            current.interrupt()

    def close(self) -> None:
        """Close the open files; the iteration must have ended."""
        while self._opened:
            self._opened.popitem()[1].close()


def _expected(count: int | None, options: InputOptions) -> int | None:
    """Return the number of selected items."""
    if count is None:
        return None
    count = max(0, count - options.offset)
    if options.limit is not None:
        count = min(count, options.limit)
    return count if options.sample is None else min(count, options.sample)


def _selected(chunks: Iterator[list[Any]], options: InputOptions) -> Iterator[list[Any]]:
    """Apply `--offset`, `--limit`, `--sample` and `--fields`, in this order."""
    if options.offset or options.limit is not None:
        chunks = _sliced(chunks, options.offset, options.limit)
    if options.sample is not None:
        chunks = _sampled(chunks, options.sample)
    if options.fields is not None:
        names = options.fields
        chunks = ([_narrowed(item, names) for item in chunk] for chunk in chunks)
    return chunks


def _sliced(chunks: Iterator[list[Any]], offset: int, limit: int | None) -> Iterator[list[Any]]:
    for chunk in chunks:
        part = chunk[offset:]
        offset = max(0, offset - len(chunk))
        if limit is not None:
            part = part[:limit]
            limit -= len(part)
        if part:
            yield part
        if limit == 0:
            return


def _sampled(chunks: Iterator[list[Any]], size: int) -> Iterator[list[Any]]:
    """Choose items by reservoir sampling, in the order of the input."""
    chance = random.Random(0)  # noqa: S311  # the same sample each time, so that a run can be repeated
    reservoir: list[tuple[int, Any]] = []
    index = 0
    for chunk in chunks:
        for item in chunk:
            if index < size:
                reservoir.append((index, item))
            elif (slot := chance.randrange(index + 1)) < size:
                reservoir[slot] = index, item
            index += 1
    reservoir.sort(key=lambda pair: pair[0])
    items = iter([item for _, item in reservoir])
    while chunk := list(islice(items, 256)):
        yield chunk


def _narrowed(item: Any, names: tuple[str, ...]) -> Any:
    if isinstance(item, Rejected):
        return item
    if not isinstance(item, dict):
        return Rejected(f"--fields needs items with fields, and this one is a {type(item).__name__}", "NoFields", item)
    missing = [name for name in names if name not in item]
    if missing:
        return Rejected(f"no field {missing[0]!r}, which --fields names", "MissingField", item)
    return {name: item[name] for name in names}


def _with_rejected_noted(chunks: Iterator[list[Any]], rejected: set[int]) -> Iterator[list[Any]]:
    """Note the indices of items that could not be read."""
    start = 0
    for chunk in chunks:
        rejected.update(start + offset for offset, item in enumerate(chunk) if isinstance(item, Rejected))
        start += len(chunk)
        yield chunk
