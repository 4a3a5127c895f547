"""A prompt's KV between two workers: its bytes, its messages, and the GPUs that move it."""

from dataclasses import dataclass

from simulator.deployment import Transfer
from simulator.layout import Layout, Precision
from simulator.model import Held, Model

ENDLESS = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What transfers need to know of one pool's workers; ``block_size`` is tokens per KV block."""

    layout: Layout
    precision: Precision
    block_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How the KV of prompts goes from an attention rank of one worker to one of another.

    The receiver ``held`` bytes go over in its blocks of ``block_size`` tokens, ``copies`` times
    each (its GPUs that hold the same heads; windowed layers may have others), the state of linear
    layers once, as all of them hold other parts of it. ``senders`` and ``receivers`` are the GPUs
    that move it side by side, those of all pipeline stages. A ``message`` is so many bytes, and
    the GPUs of one side post them: the receivers if ``pulled``.
    """

    held: Held
    block_size: int
    copies: float
    window_copies: float
    senders: int
    receivers: int
    message: float
    pulled: bool

    def payload(self, tokens: int) -> float:
        """Return the bytes of a prompt of ``tokens``, each distinct one once."""
        return self.held.bytes(self.whole(tokens))

    def size(self, tokens: int) -> float:
        """Return the bytes of a prompt of ``tokens`` that cross the wire."""
        whole = self.whole(tokens)
        return self.crossing(whole, min(whole, self.held.window))

    def crossing(self, tokens: float, in_window: float) -> float:
        """Return the bytes that cross for whole blocks of ``tokens``, so many in the window."""
        held = self.held
        growing = self.copies * held.per_token * tokens
        return growing + self.window_copies * held.per_window_token * in_window + held.state

    def whole(self, tokens: int) -> int:
        """Return the tokens that fill the blocks a prompt begins."""
        return -(-tokens // self.block_size) * self.block_size

    def posted(self, message_s: float) -> float:
        """Return the bytes/s at which one side posts messages that take ``message_s`` each."""
        if not message_s or self.message == ENDLESS:
            return ENDLESS
        return (self.receivers if self.pulled else self.senders) * self.message / message_s


def wire(model: Model, source: End, target: End, transfer: Transfer) -> Wire:
    """Return how KV goes from workers like ``source`` to workers like ``target``.

    With H heads (an MLA latent is one), P sending and D receiving GPUs of a stage, a receiver
    reads H / min(D, H) heads from whichever senders hold them; senders that hold the same heads
    share the work as far as there are receivers to ask them.
    """
    full, windowed = (_heads(model, windowed=each) for each in (False, True))
    most = max([full] * bool(model.growing_layers) + [windowed] * bool(model.window_layers) or [1])
    here, there = source.layout.tp, target.layout.tp
    each = transfer.replicas == "each"
    return Wire(
        held=model.held(target.precision.kv_bytes),
        block_size=target.block_size,
        copies=there / min(there, full) if each else 1.0,
        window_copies=there / min(there, windowed) if each else 1.0,
        senders=(min(here, max(most, there)) if each else min(here, most)) * source.layout.pp,
        receivers=(there if each else min(there, most)) * target.layout.pp,
        message=_message(model, source, target, transfer),
        pulled=transfer.mode == "pull",
    )


def _heads(model: Model, *, windowed: bool) -> int:
    """Return the parts into which ranks can divide a layer's KV."""
    return 1 if model.attention == "mla" else model.heads_of(windowed=windowed).kv_heads


def _message(model: Model, source: End, target: End, transfer: Transfer) -> float:
    """Return the bytes of a message: what lies in one piece on both sides, of the mean layer.

    A layer's block is the keys and values (or latent) of the heads that one sender and one
    receiver share; a sparse indexer's keys of that layer are another piece. Without a layer that
    writes KV there is only state, which goes at once.
    """
    if transfer.messages == "request" or not model.kv_layers:
        return ENDLESS
    tokens = min(source.block_size, target.block_size)
    ranks = max(source.layout.tp, target.layout.tp)
    total = float(model.index_bytes_per_token)
    for layers, windowed in ((model.growing_layers, False), (model.window_layers, True)):
        elements = model.kv_elements_per_layer(windowed=windowed) * target.precision.kv_bytes
        total += layers * elements / min(_heads(model, windowed=windowed), ranks)
    if transfer.messages == "block":
        return tokens * total / max(source.layout.pp, target.layout.pp)
    indexers = model.indexing_layers if model.index_bytes_per_token else 0
    return tokens * total / (model.kv_layers + indexers)
