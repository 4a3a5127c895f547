"""How many sequences the decode workers of measured deployments had room for.

Public recipes of these runs name it: NVIDIA's srt-slurm in the names of its files
(``ctx1_gen4_tep8_batch32``), which InferenceX' ``nvidia-master.yaml`` pairs with concurrencies.
Where clients are more than seats, they wait for one, and that is part of the first token they
measure. Nothing here is fitted: a run without a recipe keeps its engine's default.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from simulator.layout import Layout
from simulator.validation.names import Workers

SOURCES = MappingProxyType(
    {
        "trtllm": "SemiAnalysisAI/InferenceX .github/configs/nvidia-master.yaml@0004cf5f, "
        "*-dynamo-trt without drafts; srt-slurm recipes/trtllm, branch sa-submission-q1-2026",
        "sglang": "ishandhanani/srt-slurm recipes/b200-fp8/8k1k.yaml@4bc1847b, stp",
    }
)

_TABLE = """
trtllm b200_sxm    nvfp4     1024/1024  1 1xADP8   512 4096
trtllm b200_sxm    nvfp4     1024/1024  1 2xADP8   128 2192
trtllm b200_sxm    nvfp4     1024/1024  1 5xADP8    32 1365
trtllm b200_sxm    nvfp4     1024/1024  1 5xTP8      1 6
trtllm b200_sxm    nvfp4     1024/1024  1 5xTP8     32 10,15,25,45,90,180
trtllm b200_sxm    nvfp4     1024/1024  1 6xTP8     64 450
trtllm b200_sxm    nvfp4     8192/1024  1 5xTP8      1 6
trtllm b200_sxm    nvfp4     8192/1024  1 5xTP8      8 10,15,25,50,100
trtllm b200_sxm    nvfp4     8192/1024  2 5xTP8     64 370
trtllm b200_sxm    nvfp4     8192/1024  4 1xADP8   192 1606
trtllm b200_sxm    nvfp4     8192/1024  4 3xADP8    32 837
trtllm b200_sxm    nvfp4     8192/1024  7 2xADP8   128 2222
trtllm b200_sxm    fp8_block 1024/1024  1 3xTP8   1024 4,32,128
trtllm b200_sxm    fp8_block 1024/1024  1 5xADP8    48 1920
trtllm b200_sxm    fp8_block 1024/1024  1 1xADP8   512 4096
trtllm b200_sxm    fp8_block 1024/1024  2 5xADP8   128 5152
trtllm b200_sxm    fp8_block 8192/1024  1 1xTP8      1 1
trtllm b200_sxm    fp8_block 8192/1024  1 4xTP8     32 32,128
trtllm b200_sxm    fp8_block 8192/1024  1 6xTP8     16 96
trtllm b200_sxm    fp8_block 8192/1024  1 1xADP8   128 128
trtllm b200_sxm    fp8_block 8192/1024  1 2xADP8    64 128
trtllm b200_sxm    fp8_block 8192/1024  1 1xADP8   256 256
trtllm b200_sxm    fp8_block 8192/1024  2 1xADP8   640 640
trtllm gb200_nvl72 nvfp4     1024/1024  1 1xADP8   512 4301
trtllm gb200_nvl72 nvfp4     1024/1024  1 1xADP32   16 666
trtllm gb200_nvl72 nvfp4     1024/1024  1 2xADP4   768 6144
trtllm gb200_nvl72 nvfp4     1024/1024  1 4xTP8     32 12,24,48,96,192
trtllm gb200_nvl72 nvfp4     1024/1024  1 4xTP8      1 5
trtllm gb200_nvl72 nvfp4     1024/1024  2 1xADP16  256 4301
trtllm gb200_nvl72 nvfp4     1024/1024  2 1xADP32   64 2253
trtllm gb200_nvl72 nvfp4     1024/8192  1 7xTP8      1 5,7
trtllm gb200_nvl72 nvfp4     1024/8192  1 15xTP4     4 60
trtllm gb200_nvl72 nvfp4     1024/8192  1 15xTP4     8 135
trtllm gb200_nvl72 nvfp4     1024/8192  1 1xADP32   16 563
trtllm gb200_nvl72 nvfp4     1024/8192  1 1xADP32   64 2048
trtllm gb200_nvl72 nvfp4     1024/8192  1 1xADP32  128 4096
trtllm gb200_nvl72 nvfp4     1024/8192  1 1xADP32  256 8192
trtllm gb200_nvl72 nvfp4     8192/1024  1 4xTP8     16 12,44,76
trtllm gb200_nvl72 nvfp4     8192/1024  1 4xTP8      1 5
trtllm gb200_nvl72 nvfp4     8192/1024  2 1xADP32    8 333
trtllm gb200_nvl72 nvfp4     8192/1024  7 1xADP32   32 1229
trtllm gb200_nvl72 nvfp4     8192/1024  8 1xADP16  128 2253
trtllm gb200_nvl72 nvfp4     8192/1024 10 1xADP16  256 4096
trtllm gb200_nvl72 fp8_block 1024/1024  1 1xADP8   768 6144
trtllm gb200_nvl72 fp8_block 1024/1024  1 1xADP8   512 4301
trtllm gb200_nvl72 fp8_block 1024/1024  1 1xADP16  128 2151
trtllm gb200_nvl72 fp8_block 1024/1024  1 1xADP32   32 1127
trtllm gb200_nvl72 fp8_block 1024/1024  1 1xADP32    8 256
trtllm gb200_nvl72 fp8_block 1024/1024  1 3xTP8      8 27
trtllm gb200_nvl72 fp8_block 1024/1024  1 3xTP8      1 3
trtllm gb200_nvl72 fp8_block 1024/8192  1 2xADP16  256 8192
trtllm gb200_nvl72 fp8_block 1024/8192  1 1xADP32   64 2048
trtllm gb200_nvl72 fp8_block 1024/8192  1 1xADP32   16 564
trtllm gb200_nvl72 fp8_block 1024/8192  1 4xTP8      8 36
trtllm gb200_nvl72 fp8_block 1024/8192  1 4xTP8      1 4
trtllm gb200_nvl72 fp8_block 8192/1024  5 1xADP16   64 1229
trtllm gb200_nvl72 fp8_block 8192/1024  4 1xADP32   16 666
trtllm gb200_nvl72 fp8_block 8192/1024  3 1xADP16   32 615
trtllm gb200_nvl72 fp8_block 8192/1024  2 1xADP32    8 333
trtllm gb200_nvl72 fp8_block 8192/1024  1 3xTP8     16 63
trtllm gb200_nvl72 fp8_block 8192/1024  1 3xTP8      4 18
trtllm gb200_nvl72 fp8_block 8192/1024  1 3xTP8      1 6
trtllm h200_sxm    fp8_block 1024/1024  1 9xTP8    256 36,72,144,288,576
trtllm h200_sxm    fp8_block 1024/1024  1 9xADP8   512 1152
trtllm h200_sxm    fp8_block 1024/1024  1 6xADP8   512 1536
trtllm h200_sxm    fp8_block 1024/1024  2 7xADP8   512 3584
trtllm h200_sxm    fp8_block 8192/1024  1 7xTP8     32 28
trtllm h200_sxm    fp8_block 8192/1024  1 6xTP8     16 48
trtllm h200_sxm    fp8_block 8192/1024  1 3xTP8     32 48
trtllm h200_sxm    fp8_block 8192/1024  2 5xTP8    128 160
trtllm h200_sxm    fp8_block 8192/1024  2 3xADP8   128 192
trtllm h200_sxm    fp8_block 8192/1024  1 1xADP8   256 128
trtllm h200_sxm    fp8_block 8192/1024  5 3xADP8   256 768
trtllm h200_sxm    fp8_block 8192/1024  3 1xADP8   512 512
sglang b200_sxm    fp8_block 8192/1024  1 4xTP8     24 120,128
sglang b200_sxm    fp8_block 8192/1024  1 5xTP8     16 112
sglang b200_sxm    fp8_block 8192/1024  1 2xADP8    12 288
sglang b200_sxm    fp8_block 8192/1024  1 1xADP8    24 160,256,288
sglang b200_sxm    fp8_block 8192/1024  2 1xADP8    64 512,768
sglang b200_sxm    fp8_block 8192/1024  3 1xADP8   128 1024,1280
"""
# engine, GPU, weights, input/output tokens, prefill workers, decode workers x layout, sequences of
# each attention rank, concurrencies. InferenceX counts H200's per decode worker; here all are the
# deployment's. SGLang divides a worker's limit among its ranks: theirs is written here. It pairs
# them with other concurrencies in other versions: those that were run with these workers are added.


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The decode workers of a public recipe: ``seats`` sequences on each attention rank."""

    engine: str
    gpu: str
    weights: str
    tokens: tuple[int, int]
    prefill_workers: int
    decode: Workers
    seats: int
    clients: frozenset[int]


def seats(engine: str, gpu: str, weights: str, tokens: tuple[int, int], run: "Run") -> int | None:
    """Return the sequences of a decode worker's attention rank in this run, if a recipe says so."""
    for recipe in RECIPES:
        if (
            (recipe.engine, recipe.gpu, recipe.weights) == (engine, gpu, weights)
            and recipe.tokens == tokens
            and recipe.prefill_workers == run.prefill_workers
            and _same(recipe.decode, run.decode)
            and run.clients in recipe.clients
        ):
            return recipe.seats
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What of a measured run tells its recipe from others of the same model and GPU."""

    prefill_workers: int
    decode: Workers
    clients: int


def key(name: str) -> str:
    """Return a GPU's name as recipes here have it."""
    return name.lower().replace(" ", "_")


def _same(recipe: Workers, run: Workers) -> bool:
    """Tell whether workers are as many, as large and divide attention alike, whatever their EP."""
    ours, theirs = recipe.layout, run.layout
    return (recipe.count, ours.tp, ours.attention_dp) == (
        run.count,
        theirs.tp,
        theirs.attention_dp,
    )


def _parsed() -> Iterator[Recipe]:
    for line in _TABLE.strip().splitlines():
        engine, gpu, weights, tokens, prefill, decode, each, clients = line.split()
        count, layout = decode.split("x")
        size = int(layout.lstrip("ADTP"))
        ranks = layout.startswith("ADP")
        long, short = tokens.split("/")
        yield Recipe(
            engine=engine,
            gpu=gpu,
            weights=weights,
            tokens=(int(long), int(short)),
            prefill_workers=int(prefill),
            decode=Workers(
                count=int(count),
                layout=Layout(tp=1 if ranks else size, attention_dp=size if ranks else 1, ep=size),
            ),
            seats=int(each),
            clients=frozenset(int(each) for each in clients.split(",")),
        )


RECIPES = tuple(_parsed())
