"""The search: what it tries, what it accepts, and that it goes on where it was stopped."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from utils.pruning.cost import Standing
from utils.pruning.options import PruneOptions
from utils.pruning.report import SweepPoint
from utils.training.autoprune import Tools, fitting_share, read_state, recommended, search
from utils.training.options import TrainOptions

OPTIONS = PruneOptions(weights="w.pt", data="d.data", max_map_drop=0.01, rounds=4, finetune_epochs=2, sparsity_epochs=3)


class World:
    """Tools that train nothing: AP by the name of the weights, time by the round."""

    def __init__(self, folder: Path, aps: dict[str, float], fail_at: str = "") -> None:
        self.folder, self.aps, self.fail_at = folder, aps, fail_at
        self.log: list[Any] = []

    def name(self, weights: str) -> str:
        return "whole" if weights == "w.pt" else Path(weights).parent.parent.name

    def train(self, options: TrainOptions) -> Any:
        name = Path(options.project or "").name
        self.log.append(("train", name, options.t_weights, options.epochs, options.sparsity_schedule))
        if name == self.fail_at:
            self.fail_at = ""
            raise KeyboardInterrupt
        return SimpleNamespace(folder=Path(options.project or "") / options.name)

    def prune(self, options: PruneOptions, folder: Path) -> None:
        self.log.append(("prune", self.name(options.weights), options.percent))
        (folder / "report.json").write_text("{}")

    def sweep(self, options: PruneOptions) -> list[SweepPoint]:
        return [
            SweepPoint(s, s, Standing(1, 1, 1, ap, ap)) for s, ap in ((0, 0.6), (0.2, 0.5), (0.4, 0.3), (0.6, 0.29))
        ]

    def measure(self, options: PruneOptions) -> Standing:
        name = self.name(options.weights)
        order = ["whole", "sparse", "round1", "round2", "round3", "round4"].index(name)
        return Standing(100 - order, 1.0, 50.0 - order, self.aps[name], self.aps[name])

    def tools(self) -> Tools:
        return Tools(self.train, self.prune, self.sweep, self.measure)


APS = {"whole": 0.6, "sparse": 0.55, "round1": 0.595, "round2": 0.4, "round3": 0.592, "round4": 0.591}


def test_rounds_go_on_from_what_was_accepted_and_halve_what_was_not(tmp_path: Path) -> None:
    world = World(tmp_path, APS)
    found = search(OPTIONS, tmp_path, world.tools())
    assert [each.name for each in found] == list(APS)
    assert [each.accepted for each in found] == [True, False, True, False, True, True]
    assert world.log == [
        ("train", "sparse", None, 3, "auto"),
        ("prune", "sparse", 0.4),  # a share that leaves half of the AP; from the sparse one, though its AP is too low
        ("train", "round1", "w.pt", 2, "constant"),
        ("prune", "round1", 0.4),
        ("train", "round2", "w.pt", 2, "constant"),
        ("prune", "round1", 0.2),
        ("train", "round3", "w.pt", 2, "constant"),
        ("prune", "round3", 0.4),
        ("train", "round4", "w.pt", 2, "constant"),
    ]
    assert recommended(found).name == "round4"
    assert recommended([each for each in found if each.name != "round4"]).name == "round3"
    assert read_state(tmp_path) == found


def test_nothing_small_is_tried(tmp_path: Path) -> None:
    world = World(tmp_path, {**APS, "round1": 0, "round3": 0, "round4": 0})
    found = search(replace(OPTIONS, rounds=9), tmp_path, world.tools())
    assert [each.share for each in found[2:]] == pytest.approx([0.4, 0.2, 0.1, 0.05])
    assert recommended(found).name == "whole"


def test_a_stopped_search_repeats_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, APS, fail_at="round2")
    with pytest.raises(KeyboardInterrupt):
        search(OPTIONS, tmp_path, world.tools())
    before = len(world.log)
    found = search(OPTIONS, tmp_path, world.tools())
    assert world.log[before][:2] == ("train", "round2")  # pruned already
    assert found == search(OPTIONS, tmp_path, world.tools())
    other = tmp_path / "other"
    other.mkdir()
    assert [each.accepted for each in search(OPTIONS, other, World(other, APS).tools())] == [e.accepted for e in found]


def test_a_sweep_that_falls_at_once_gives_its_smallest_share() -> None:
    points = [SweepPoint(s, s, Standing(1, 1, 1, ap, ap)) for s, ap in ((0, 0.6), (0.1, 0.1), (0.2, 0.0))]
    assert fitting_share(points) == 0.1
