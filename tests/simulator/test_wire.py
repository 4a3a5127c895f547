"""What a prompt's KV weighs on the wire and who moves it, against counts and measurements."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from shipped import shipped

from hardware.fabric import Fabric
from simulator.cli import compose
from simulator.cluster.simulation import RunOptions, Simulation, Traffic
from simulator.deployment import Transfer
from simulator.layout import Layout, MemoryBudget, Precision, plan_memory
from simulator.model import Model
from simulator.wire import ENDLESS, End, Wire, wire

LLAMA: Model = shipped("model", "llama_3_1_70b")
DEEPSEEK: Model = shipped("model", "deepseek_r1")


def end(layout: Layout, block_size: int = 16, kv: str = "bf16") -> End:
    """Return one end."""
    return End(layout=layout, precision=Precision(kv=kv), block_size=block_size)


def between(model: Model, source: Layout, target: Layout, transfer: Transfer | None = None) -> Wire:
    """Return the wire between workers of two layouts."""
    return wire(model, end(source), end(target), transfer or Transfer())


@pytest.mark.parametrize(
    ("source", "target", "copies", "senders", "receivers"),
    [
        (4, 4, 1, 4, 4),
        (8, 2, 1, 8, 2),
        (2, 8, 1, 2, 8),
        (4, 16, 2, 4, 16),
        (16, 4, 1, 8, 4),
        (16, 16, 2, 16, 16),
        (16, 32, 4, 16, 32),
    ],
)
def test_every_decode_rank_reads_its_own_copy(
    source: int, target: int, copies: int, senders: int, receivers: int
) -> None:
    """Of 8 KV heads, more than 8 ranks hold copies; whoever sends shares the readers."""
    found = between(LLAMA, Layout(tp=source), Layout(tp=target))
    assert (found.copies, found.senders, found.receivers) == (copies, senders, receivers)
    assert found.size(2048) == copies * 2048 * LLAMA.kv_bytes_per_token(2.0)
    assert found.payload(2048) == 2048 * LLAMA.kv_bytes_per_token(2.0)


def test_copies_can_be_sent_once() -> None:
    """With ``replicas=once`` one rank per head receives, from one that has it."""
    found = between(LLAMA, Layout(tp=16), Layout(tp=32), Transfer(replicas="once"))
    assert (found.copies, found.senders, found.receivers) == (1, 8, 8)
    assert found.size(160) == found.payload(160)


def test_a_latent_is_copied_to_every_rank_and_stages_work_side_by_side() -> None:
    """All ranks of tensor parallelism hold the whole MLA latent; pipeline stages a part each."""
    found = between(DEEPSEEK, Layout(tp=8, ep=8), Layout(tp=4, pp=2))
    assert (found.copies, found.senders, found.receivers) == (4, 4, 8)
    apart = between(DEEPSEEK, Layout(attention_dp=8, ep=8), Layout(attention_dp=8, ep=8))
    assert (apart.copies, apart.senders, apart.receivers) == (1, 1, 1)


@pytest.mark.parametrize("name", ["llama_3_1_8b", "deepseek_r1", "deepseek_v3_2"])
@pytest.mark.parametrize("tokens", [1, 16, 17, 1000])
def test_what_is_sent_is_what_blocks_are_planned_for(name: str, tokens: int) -> None:
    """Without windows, a prompt's bytes are its blocks' share of the KV that memory is planned for.

    Index keys are among them. Planning charges windowed layers their whole context, an upper
    bound; the wire carries what lies in the window.
    """
    model = shipped("model", name)
    layout = Layout(tp=8)
    gpu = replace(shipped("hardware", "h200_sxm"), memory_bytes=1e13)
    memory = plan_memory(model, layout, Precision(), gpu, MemoryBudget(block_size=16))
    found = between(model, layout, layout)
    blocks = -(-tokens // 16)
    assert found.payload(tokens) == pytest.approx(blocks * 16 * memory.kv_bytes_per_token)


def test_linear_state_crosses_whole_and_once() -> None:
    """Of Qwen3-Next's 100-token prompt 7 blocks of 12 layers cross, and 36 layers' state."""
    model = shipped("model", "qwen3_next_80b_a3b")
    found = between(model, Layout(tp=4), Layout(tp=8))
    rows = 7 * 16 * 12 * 2 * 2 * 256 * 2  # 12 layers of 2 heads of 256, key and value, 16 bits
    state = 36 * (32 * 128 * 128 + (2 * 16 + 32) * 128 * 3) * 2
    assert found.payload(100) == rows + state
    assert found.size(100) == 4 * rows + state


def test_windowed_layers_send_their_window() -> None:
    """A windowed layer's share stops growing where its window is full."""
    model = shipped("model", "gemma_3_27b")
    assert model.window
    found = between(model, Layout(tp=4), Layout(tp=4))
    grown = [found.payload(tokens) for tokens in (model.window, 2 * model.window, 3 * model.window)]
    first, second = (b - a for a, b in pairwise(grown))
    assert first == second == model.window * model.growing_kv_bytes_per_token(2.0)
    assert grown[0] == model.window * model.kv_bytes_per_token(2.0)


def test_windowed_layers_may_have_other_heads() -> None:
    """Each kind of layer crosses as often as ranks hold its heads; the wider sets the ports."""
    model = replace(
        LLAMA, window=1024, full_attention_layers=20, window_kv_heads=4, window_head_dim=256
    )
    found = between(model, Layout(tp=4), Layout(tp=8))
    assert (found.copies, found.window_copies) == (1, 2)
    assert (found.senders, found.receivers) == (4, 8)
    full, windowed = 20 * 2 * 8 * 128 * 2, 60 * 2 * 4 * 256 * 2
    assert found.payload(2048) == 2048 * full + 1024 * windowed
    assert found.size(2048) == 2048 * full + 2 * 1024 * windowed
    assert found.message == 16 * (full / 8 + windowed / 4) / 80


def test_messages_are_the_pieces_that_lie_together() -> None:
    """A piece is what one sender and one receiver share of a block: of a layer, or of all."""
    block = 16 * 2 * 128 * 2  # tokens × key and value × head × 16 bits
    four, sixteen = Layout(tp=4), Layout(tp=16)
    assert between(LLAMA, four, four).message == 2 * block
    assert between(LLAMA, four, sixteen).message == block
    assert between(LLAMA, sixteen, Layout()).message == block
    whole = Transfer(messages="block")
    assert between(LLAMA, four, four, whole).message == 80 * 2 * block
    assert between(LLAMA, four, Layout(tp=4, pp=2), whole).message == 40 * 2 * block
    assert between(LLAMA, four, four, Transfer(messages="request")).message == ENDLESS
    small = wire(LLAMA, end(four, block_size=64), end(four, block_size=16), Transfer())
    assert small.message == 2 * block
    latent = between(DEEPSEEK, Layout(tp=8), Layout(tp=8))
    assert latent.message == 16 * 576 * 2
    indexed = between(shipped("model", "deepseek_v3_2"), Layout(tp=8), Layout(tp=8))
    assert indexed.message == 16 * (576 * 2 + 132) / 2


def test_who_asks_posts_the_messages() -> None:
    """Pulling, the receivers post them, pushing the senders; free messages bind nobody."""
    four, sixteen = Layout(tp=4), Layout(tp=16)
    pulled, pushed = (between(LLAMA, four, sixteen, Transfer(mode=m)) for m in ("pull", "push"))
    assert pulled.posted(1e-6) == pytest.approx(16 * 8192 / 1e-6)
    assert pushed.posted(1e-6) == pytest.approx(4 * 8192 / 1e-6)
    assert pulled.posted(0.0) == ENDLESS


# --- against measurements ---------------------------------------------------------------------

MOONCAKE = {128: 0.54, 1024: 1.50, 8192: 8.84, 32768: 31.65}
"""Milliseconds in which vLLM's Mooncake connector moved Qwen3-8B's KV over 8 × 200 Gb/s RoCE."""
BOX = (
    *("model=qwen3_8b", "hardware=h800_sxm", "hardware.nic.bandwidth=2.5e10", "transfer=push"),
    *("pools.prefill.workers=8", "pools.decode.workers=1", "router=round_robin"),
    *("pools.prefill.layout.tp=1", "pools.decode.layout.tp=1", "transfer.nics=box"),
)


def transfers(overrides: tuple[str, ...], prompts: list[int]) -> Any:
    """Return the seconds of transfers, one prompt at a time."""
    deployment = compose(list(overrides)).deployment
    shape = len(prompts)
    load = Traffic(
        arrival_s=np.arange(shape) * 100.0,
        input_tokens=np.array(prompts, np.int32),
        output_tokens=np.full(shape, 2, np.int32),
    )
    columns = Simulation(deployment, load, RunOptions(sample_interval_s=100.0)).run().requests
    return columns["transfer_end_s"] - columns["transfer_start_s"]


def test_a_worker_on_a_boxs_nics_takes_what_mooncakes_took() -> None:
    """Within 8 % of the four transfers that were measured.

    The fabric's set-up and cost of a message were fitted to nine of that series, so this shows that
    a line of two numbers describes them, not that it predicts others; that series' transfer of 256
    tokens took 15 % less than ours. Independent figures are below.
    """
    took = transfers(BOX, list(MOONCAKE)) * 1e3
    assert took == pytest.approx(list(MOONCAKE.values()), rel=0.08)


def port(fabric: Fabric, nics: int, nic: float, message: float) -> float:
    """Return the bytes/s of so many NICs that one process feeds with messages of this size."""
    card = shipped("hardware", "h800_sxm")
    card = replace(card, nic=replace(card.nic, bandwidth=nic))
    reached = nics * fabric.reach(card, "scale_out")
    return min(reached, message / fabric.message_s) if message < ENDLESS else reached


@pytest.mark.parametrize(
    ("nics", "nic", "message", "measured", "within"),
    [
        (1, 25e9, ENDLESS, 23e9, 0.001),  # NIXLBench, 64 MiB: what efficiency was taken from
        (4, 25e9, 65536, 87e9, 0.06),  # Mooncake's transfer engine, 64 KiB slices
        (8, 50e9, 65536, 190e9, 0.20),  # the same; ours posts more slowly, as its connector does
        (4, 50e9, ENDLESS, 168e9, 0.10),  # SGLang over Mooncake, H20
    ],
)
def test_ports_reach_what_was_measured(
    nics: int, nic: float, message: float, measured: float, within: float
) -> None:
    """Effective bandwidths of one and several NICs, with the gap that is left."""
    found = port(shipped("fabric", "hgx8"), nics, nic, message)
    assert found == pytest.approx(measured, rel=within)


def test_messages_inside_a_box_cost_what_was_measured() -> None:
    """40,064 descriptors of 313 MB took vLLM 129 ms to post inside a box, within 5 %."""
    fabric: Fabric = shipped("fabric", "hgx8")
    assert 40_064 * fabric.message_cost("scale_up") == pytest.approx(0.129, rel=0.05)


def test_neighbours_in_a_box_share_its_nics() -> None:
    """Two workers of a box that send at once have its eight NICs between them, not eight each."""
    half = (*BOX, "fabric.message_s=0", "pools.decode.workers=2")
    deployment = compose([*half]).deployment
    load = Traffic(
        arrival_s=np.zeros(2),
        input_tokens=np.full(2, 8192, np.int32),
        output_tokens=np.full(2, 2, np.int32),
    )
    columns = Simulation(deployment, load, RunOptions()).run().requests
    assert len(set(columns["prefill_worker"])) == len(set(columns["decode_worker"])) == 2
    together = columns["transfer_end_s"] - columns["transfer_start_s"]
    alone = transfers(half, [8192])
    fixed = 4.5e-4 + 5e-6
    assert together - fixed == pytest.approx(2 * (alone[0] - fixed), rel=1e-6)
