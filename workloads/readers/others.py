"""Smaller JSON formats: LLMServingSim, aibrix, and ShareGPT-like chats with token counts.

LLMServingSim: ``{"input_toks", "output_toks", "arrival_time_ns", "input_tok_ids": [..]}``, one on a
line; where the tokens themselves are there, prompts share blocks of 16 of them. aibrix:
``{"timestamp": ms, "requests": [{"Prompt Length", "Output Length"}]}``, several requests at each
stamp. Chats: ``[{"id", "conversations": [{"from": "human" or "gpt", "tokens": n}]}]``, or
``messages`` with a ``role``: an answer's prompt is all before it. Chats say nothing of time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from workloads.cleaning import Policy, clean
from workloads.errors import TraceError
from workloads.readers import measured
from workloads.readers.calls import Calls, require_fields, seconds, text, whole
from workloads.readers.hints import Hints
from workloads.readers.objects import first_object
from workloads.readers.prompts import Sessions, Streams, Tree, require_ids
from workloads.readers.rows import CLIENTS
from workloads.readers.times import Clock
from workloads.trace import Trace
from workloads.where import Where

BLOCK_SIZE = 16
SETTINGS = ("block_size", "block_scope", "tail_block")


class LLMServingSim:
    """Reads LLMServingSim's requests."""

    name = "llmservingsim"
    _needed = ("arrival_time_ns", "input_toks", "output_toks")

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with such a request."""
        row = first_object(head) or {}
        return all(name in row for name in self._needed)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        calls, tree, size = Calls(path), Tree(), hints.block_size or BLOCK_SIZE
        for fields, where in measured.rows(path):
            require_fields(fields, self._needed, where)
            stamp, *lengths = (fields[name] for name in self._needed)
            seconds(stamp, "arrival_time_ns", where, 0)
            tokens = whole(lengths[0], "input_toks", where)
            calls.add(stamp, tokens, whole(lengths[1], "output_toks", where))
            blocks = _blocks(fields.get("input_tok_ids"), tokens, size, where)
            if blocks is None:
                calls.prompts.add(None)
            else:
                calls.prompts.add_ids(tree.ids(blocks))
            calls.further.update(set(fields) - {*self._needed, "input_tok_ids"})
        require_ids(tree.size, str(path))
        about: dict[str, Any] = dict(zip(SETTINGS, (size, "global", "omitted"), strict=True))
        clock = Clock(native="ns", stated=hints.time_unit)
        return clean(calls.raw(self.name, clock, **about), policy)


def _blocks(ids: object, tokens: int, size: int, where: Where) -> list[tuple[Any, ...]] | None:
    """Return a prompt's whole blocks of token ids, where they are there."""
    if ids is None:
        return None
    plain = isinstance(ids, list) and all(isinstance(each, int | str) for each in ids)
    if not isinstance(ids, list) or not plain:
        where.fail(0, "input_tok_ids", ids, "a list of tokens")
    if len(ids) > tokens:
        where.fail(0, "number of input_tok_ids", len(ids), f"at most input_toks, {tokens}")
    return [tuple(ids[at : at + size]) for at in range(0, len(ids) - size + 1, size)]


class Aibrix:
    """Reads aibrix's workloads."""

    name = "aibrix"
    _lengths = (("Prompt Length", "prompt_length"), ("Output Length", "output_length"))

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with a stamp and its requests."""
        row = first_object(head) or {}
        requests = row.get("requests")
        return "timestamp" in row and isinstance(requests, list) and "block_size" not in row

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the row that cannot be read."""
        calls = Calls(path)
        for fields, where in measured.rows(path):
            require_fields(fields, ("timestamp", "requests"), where)
            stamp = seconds(fields["timestamp"], "timestamp", where, 0)
            requests = fields["requests"]
            if not isinstance(requests, list) or not all(isinstance(r, dict) for r in requests):
                where.fail(0, "requests", requests, "a list of objects")
            for at, request in enumerate(requests):
                self._add(request, stamp, calls, where.within(f"request {at}"))
        if not len(calls):
            raise TraceError(f"{path}: holds no request")
        clock = Clock(native="ms", stated=hints.time_unit, whole=True)
        return clean(calls.raw(self.name, clock), policy)

    def _add(self, request: dict[str, Any], stamp: float, calls: Calls, where: Where) -> None:
        found = []
        for names in self._lengths:
            name = next((each for each in names if each in request), names[0])
            found.append(whole(request.get(name), name, where))
        session = text(request, "session_id", where)
        calls.add(stamp, *found, session_id=session, model=text(request, "model", where))


class Chats:
    """Reads chats whose messages have token counts."""

    name = "sharegpt"
    _lists = ("conversations", "messages")
    _counts = ("tokens", "num_tokens", "token_count", "n_tokens")
    _writers = ("gpt", "assistant", "chatgpt", "model", "bing", "bard")

    def sniff(self, head: bytes, path: Path) -> bool:  # noqa: ARG002 - the content decides
        """Tell whether the file begins with a chat."""
        row = first_object(head)
        if row is None:
            begin = head[:4096].lstrip()
            return begin.startswith((b"[", b"{")) and b'"conversations"' in begin
        chat = next((row[name] for name in self._lists if name in row), None)
        first = chat[0] if isinstance(chat, list) and chat else None
        return isinstance(first, dict) and ("from" in first or "role" in first)

    def read(self, path: Path, policy: Policy, hints: Hints) -> Trace:
        """Return the trace; raise ``TraceError`` naming the chat that cannot be read."""
        measured.own_unit(path, hints.time_unit)
        ids = Sessions()
        calls, streams = Calls(path), Streams(hints.block_size or BLOCK_SIZE, ids)
        for fields, where in measured.rows(path):
            self._add(fields, where, calls, streams)
            require_ids(ids.base, str(path))
        if not len(calls):
            raise TraceError(f"{path}: holds no answer")
        arrivals = [None if parent is not None else 0.0 for parent in calls.column("parent_id")]
        about: dict[str, Any] = dict(
            zip(SETTINGS, (streams.size, "session", "omitted"), strict=True)
        )
        raw = calls.raw_of(
            self.name,
            pl.Series("arrival_s", arrivals, dtype=pl.Float64),
            warnings=(f"{path}: has no times: all chats begin at 0, without pauses; {CLIENTS}",),
            **about,
        )
        return clean(raw, policy)

    def _add(self, fields: dict[str, Any], where: Where, calls: Calls, streams: Streams) -> None:
        """Take one chat: each answer is a request."""
        name = next((each for each in self._lists if each in fields), self._lists[0])
        chat = fields.get(name)
        if not isinstance(chat, list):
            where.fail(0, name, chat, "a list of messages")
        said, parent, before = 0, -1, 0
        for at, message in enumerate(chat):
            place = where.within(f"message {at}")
            if not isinstance(message, dict):
                place.fail(0, "the message", message, "an object")
            tokens = self._tokens(message, place)
            if message.get("from", message.get("role")) in self._writers and said:
                row = len(calls)
                calls.add(
                    0.0,
                    whole(said, "tokens so far", place),
                    tokens,
                    session_id=text(fields, "id", where) or str(where.first_row),
                    parent_id=None if parent < 0 else parent,
                    delay_s=None if parent < 0 else 0.0,
                )
                calls.prompts.add(streams.add(row, parent, before, (said, tokens)))
                parent, before = row, said + tokens
            said += tokens

    def _tokens(self, message: Mapping[str, Any], where: Where) -> int:
        name = next((each for each in self._counts if each in message), None)
        if name is None:
            raise TraceError(
                f"{where.place} has no {', '.join(self._counts[:-1])} or {self._counts[-1]}: text "
                "alone is not read, count its tokens first"
            )
        return whole(message[name], name, where)


OTHERS = (LLMServingSim(), Aibrix(), Chats())
"""Every one of them."""
