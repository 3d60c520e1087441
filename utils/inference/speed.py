"""What the stages of detection cost for a picture, and the least that all of them together can take."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.clock import Watch
from utils.data.frames import read_frames
from utils.inference.predictor import Predictor
from utils.inference.writer import Outputs, Writer
from utils.log import say


@dataclass(frozen=True)
class StageCosts:
    """Milliseconds an image: of each stage alone, wall clock and CPU time of all cores, and of all overlapping."""

    stages: dict[str, tuple[float, float]]
    together: float

    @property
    def bound(self) -> float:
        """What no overlapping can beat: the slowest stage, or all CPU time shared by all cores."""
        cores = os.cpu_count() or 1
        return max(*(wall for wall, _ in self.stages.values()), sum(cpu for _, cpu in self.stages.values()) / cores)


def time_picture(predictor: Predictor, file: str, folder: Path) -> list[tuple[str, tuple[float, float]]]:
    """(stage, its seconds by the wall and of the cores) for one picture, one after the other; writes into `folder`."""
    watch, times = Watch(), []
    (frame,) = read_frames(file)
    times.append(("read", watch.lap()))
    (result,) = predictor([frame])
    wall, cpu = watch.lap(all_threads=True)
    for stage in ("preprocess", "inference", "nms"):  # its parts, by its own clock; CPU time in proportion
        part = result.milliseconds[stage] / 1000
        times.append((stage, (part, cpu * part / wall)))
    picture = result.plot()
    times.append(("draw", watch.lap()))
    Writer(folder, Outputs(), lambda _: picture).write(result)
    times.append(("write", watch.lap()))
    return times


def median_ms(costs: list[tuple[float, float]]) -> tuple[float, float]:
    """Seconds by the wall and of the cores -> the medians of both, in milliseconds."""
    wall, cpu = np.median(np.array(costs), axis=0) * 1000
    return float(wall), float(cpu)


def show_stages(costs: StageCosts, what: str, outside: tuple[str, ...]) -> None:
    """Print them for `what` was timed; `outside` are the stages beside the network."""
    say(f"\n{'stage':12} {'ms':>8} {'CPU ms':>8}")
    for name, (wall, cpu) in costs.stages.items():
        say(f"{name:12} {wall:8.2f} {cpu:8.2f}")
    beside = sum(costs.stages[name][0] for name in outside)
    name, (wall, _) = max(costs.stages.items(), key=lambda item: item[1][0])
    limit = f"the slowest stage, {name}" if wall >= costs.bound else f"the CPU time of all, on {os.cpu_count()} cores"
    say(
        f"an image, medians over {what} a round: {beside:.1f} ms beside the network; all overlapping "
        f"{costs.together:.1f} ms,\n{costs.together / costs.bound:.2f} times the least possible, which {limit} sets: "
        f"{costs.bound:.1f} ms"
    )
