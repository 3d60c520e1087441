"""The search: what it tries, what it accepts, and that it goes on where it was stopped."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from utils.pruning.cost import Standing
from utils.pruning.options import PruneOptions
from utils.pruning.report import SweepPoint
from utils.training.autoprune import Candidate, Search, Tools, fitting_share, recommended
from utils.training.options import TrainOptions

OPTIONS = PruneOptions(weights="w.pt", data="d.data", max_map_drop=0.01, rounds=4, finetune_epochs=2)


class World:
    """Tools that train nothing: AP by the name of the weights, time by the round."""

    def __init__(self, folder: Path, aps: dict[str, float], fail_at: str = "") -> None:
        self.folder, self.aps, self.fail_at = folder, aps, fail_at
        self.log: list[Any] = []

    def name(self, weights: str) -> str:
        return "whole" if weights == "w.pt" else Path(weights).parent.parent.name

    def train(self, options: TrainOptions) -> Any:
        name = Path(options.project or "").name
        self.log.append(("train", name, options.t_weights, options.epochs))
        if name == self.fail_at:
            self.fail_at = ""
            raise KeyboardInterrupt
        return SimpleNamespace(folder=Path(options.project or "") / options.name)

    def prune(self, options: PruneOptions, folder: Path) -> None:
        self.log.append(("prune", self.name(options.weights), options.percent))
        (folder / "report.json").write_text(json.dumps({"share_of_removable_channels": options.percent}))

    def sweep(self, options: PruneOptions) -> list[SweepPoint]:
        return [
            SweepPoint(s, s, Standing(1, 1, 1, ap, ap)) for s, ap in ((0, 0.6), (0.2, 0.5), (0.4, 0.3), (0.6, 0.29))
        ]

    def measure(self, weights: str) -> Standing:
        name = self.name(weights)
        order = ["whole", "round1", "round2", "round3", "round4"].index(name)
        return Standing(100 - order, 1.0, 50.0 - order, self.aps[name], self.aps[name])

    def search(self, options: PruneOptions = OPTIONS) -> list[Candidate]:
        return Search(options, self.folder, Tools(self.train, self.prune, self.sweep, self.measure)).run()


APS = {"whole": 0.6, "round1": 0.595, "round2": 0.4, "round3": 0.592, "round4": 0.591}


def test_rounds_go_on_from_what_was_accepted_and_halve_what_was_not(tmp_path: Path) -> None:
    world = World(tmp_path, APS)
    found = world.search()
    assert [each.name for each in found] == list(APS)
    assert [each.accepted for each in found] == [True, True, False, True, True]
    assert world.log == [
        ("prune", "whole", 0.4),  # a share that leaves half of the AP
        ("train", "round1", "w.pt", 2),
        ("prune", "round1", 0.4),
        ("train", "round2", "w.pt", 2),
        ("prune", "round1", 0.2),
        ("train", "round3", "w.pt", 2),
        ("prune", "round3", 0.4),
        ("train", "round4", "w.pt", 2),
    ]
    assert recommended(found).name == "round4"
    assert recommended([each for each in found if each.name != "round4"]).name == "round3"
    world.log.clear()
    assert world.search() == found and world.log == []  # all of it is remembered


def test_nothing_small_is_tried(tmp_path: Path) -> None:
    world = World(tmp_path, {**APS, "round1": 0, "round3": 0, "round4": 0})
    found = world.search(replace(OPTIONS, rounds=9))
    assert [each.share for each in found[1:]] == pytest.approx([0.4, 0.2, 0.1, 0.05])
    assert recommended(found).name == "whole"


def test_a_stopped_search_repeats_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, APS, fail_at="round2")
    with pytest.raises(KeyboardInterrupt):
        world.search()
    before = world.log.copy()
    world.log.clear()
    found = world.search()
    assert world.log[0] == before[-1] == ("train", "round2", "w.pt", 2)  # pruned already
    straight = World(tmp_path / "other", APS)
    (tmp_path / "other").mkdir()
    assert [each.accepted for each in straight.search()] == [each.accepted for each in found]
    assert straight.log == before[:-1] + world.log


def test_a_round_that_can_remove_nothing_is_not_trained(tmp_path: Path) -> None:
    world = World(tmp_path, APS)
    world.prune = lambda options, folder: (folder / "report.json").write_text(  # type: ignore[assignment,misc]
        '{"share_of_removable_channels": 0.01}'
    )
    assert [each.name for each in world.search()] == ["whole"]
    assert world.log == []


def test_a_sweep_that_falls_at_once_gives_its_smallest_share() -> None:
    points = [SweepPoint(s, s, Standing(1, 1, 1, ap, ap)) for s, ap in ((0, 0.6), (0.1, 0.1), (0.2, 0.0))]
    assert fitting_share(points) == 0.1


@pytest.mark.parametrize(
    ("fall", "share"),
    [
        (lambda share: 1 - share, 0.5),  # AP falls in proportion: half of the channels are half of it
        (lambda share: 1 - share**2, 0.7),  # half at the root of 1/2, 0.707
        (lambda share: (1 - share) ** 2, 0.2),  # at 1 - the root of 1/2, 0.293
        (lambda share: 2 ** (-share / 0.3), 0.3),  # half each 0.3: exactly half is enough
        (lambda share: 1.0, 0.9),
        (lambda share: float(share == 0), 0.1),
        (lambda share: 1 - share if share != 0.3 else 0.1, 0.5),  # one that falls lower on the way is passed
    ],
)
@pytest.mark.parametrize("ap", [0.04, 0.6])
def test_a_round_costs_at_most_half_of_the_ap(fall: Callable[[float], float], share: float, ap: float) -> None:
    """The greatest of nine shares that leaves half of what the whole network has, whatever that is."""
    shares = [number / 10 for number in range(10)]
    points = [SweepPoint(each, each, Standing(1, 1, 1, 1.0, ap * fall(each))) for each in shares]
    assert fitting_share(points) == share


def test_the_share_goes_by_ap_not_by_ap50_and_by_what_is_gone() -> None:
    points = [SweepPoint(0, 0, Standing(1, 1, 1, 0.9, 0.6)), SweepPoint(0.5, 0.4, Standing(1, 1, 1, 0.1, 0.3))]
    points.append(SweepPoint(0.6, 0.5, Standing(1, 1, 1, 0.9, 0.2)))
    assert fitting_share(points) == 0.4
