"""The ghost block against the plain convolution, at every size: `benchmark.py blocks`."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch

from utils.errors import InputError
from utils.files import new_run_folder, write_text
from utils.log import counted, say
from utils.network.graph import parse_graph
from utils.network.registry import KINDS, Block
from utils.network.speed import Measured, Rivals, time_rivals
from utils.network.speed_report import draw_ratios, format_sizes, summary
from utils.options import MAX_SIZE, check_at_least, choose_device
from utils.precision import native_bfloat16

MOST_FLOPS = 8e9  # of a plain convolution: over twice the dearest layer of the networks in cfg/; more takes long
BOTH_BLOCKS = """
[net]
[convolutional]
filters={channels}
size={kernel}
pad=1
batch_normalize=1
activation=leaky
[ghost]
filters={channels}
size={kernel}
pad=1
batch_normalize=1
activation=leaky
ratio={ratio}
"""


@dataclass(frozen=True)
class BlocksBenchmark:
    """Time the ghost block against a plain convolution with the same output, one image at a time."""

    channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    """Channels, as many in as out."""
    sizes: tuple[int, ...] = (13, 26, 52, 104, 208)
    """Sides of the square maps in pixels."""
    kernels: tuple[int, ...] = (1, 3)
    """Sides of the kernels, odd."""
    ratio: int = 2
    """Maps of a ghost block for each one that it convolves; the channels are multiples of it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    rounds: int = 11
    """Rounds; the two blocks take turns, and medians are shown."""
    name: str = "exp"
    """Results go to PROJECT/NAME (NAME-2 ... where it exists)."""
    project: str = "runs/benchmark"
    """Folder of the results' folder."""


def blocks_speed(options: BlocksBenchmark) -> list[Measured]:
    """Time both blocks at each size that is worth it, print a table, write blocks.json and blocks.png."""
    _check_blocks(options)
    device = choose_device(options.device)
    rivals = [
        Rivals(kernel, channels, size, *_builders(kernel, channels, options.ratio))
        for kernel in sorted(set(options.kernels))
        for channels in sorted(set(options.channels))
        for size in sorted(set(options.sizes))
    ]
    chosen = [pair for pair in rivals if pair.costs[1].flops < pair.costs[0].flops <= MOST_FLOPS]
    most = f"{MOST_FLOPS / 1e9:.0f} GFLOPs"
    if not chosen:
        raise InputError(f"expected a size whose convolution costs at most {most}, and whose ghost block costs less")
    if len(chosen) < len(rivals):
        left_out = f"{len(rivals) - len(chosen)} of {counted(len(rivals), 'size')}"
        say(f"left out: {left_out}, whose convolution costs more than {most}, or whose ghost block costs no less")
    dtypes = [torch.float32]
    if native_bfloat16(device):
        dtypes.append(torch.bfloat16)
    else:
        say(f"left out: bfloat16, which this {device.type} does not compute natively")
    folder = new_run_folder(options.project, options.name)
    rows = time_rivals(chosen, dtypes, device, options.rounds)
    say(f"\n{format_sizes(rows)}\n{summary(rows)}")
    written = {"options": asdict(options), "threads": torch.get_num_threads(), "sizes": [asdict(row) for row in rows]}
    write_text(folder / "blocks.json", json.dumps(written, indent=2) + "\n")
    draw_ratios(folder / "blocks.png", rows, f"Ghost blocks of ratio {options.ratio} against convolutions, on {device}")
    say(f"medians over {counted(options.rounds, 'round')}, one image; results in {folder}: blocks.json, blocks.png")
    return rows


def _check_blocks(options: BlocksBenchmark) -> None:
    check_at_least(1, rounds=options.rounds)
    check_at_least(2, ratio=options.ratio)
    for flag in ("channels", "sizes", "kernels"):
        for number in getattr(options, flag):
            if not 1 <= number <= MAX_SIZE:
                raise InputError(f"--{flag} {number}: expected 1 to {MAX_SIZE}")
    for number in options.channels:
        if number % options.ratio:
            raise InputError(f"--channels {number}: expected a multiple of --ratio {options.ratio}")
    for number in options.kernels:
        if number % 2 == 0:
            raise InputError(f"--kernels {number}: expected an odd number")


def _builders(kernel: int, channels: int, ratio: int) -> list[Callable[[], Block]]:
    """What makes the convolution and the ghost block, as in a network of these sections."""
    graph = parse_graph(BOTH_BLOCKS.format(kernel=kernel, channels=channels, ratio=ratio))
    return [partial(KINDS[node.kind].build, node.options, (channels,)) for node in graph.nodes]
