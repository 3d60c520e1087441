"""prune.py as a user runs it."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prune as command
from models import Darknet, load_model, save_weights
from prune import PruneOptions, dry_run, prune
from tests.commands import assert_refused, run
from utils.errors import InputError, Stopped
from utils.network.graph import load_graph
from utils.pruning.cost import Standing
from utils.pruning.report import SweepPoint, find_knee


@pytest.fixture
def best(trained: Path) -> Path:
    return trained / "best.pt"


def options(best: Path, **more: object) -> list[object]:
    flags = {"weights": best, "data": "s.data", "workers": 0, "round_to": 1, "min_keep": 0.05} | more
    return [part for key, value in flags.items() for part in (f"--{key.replace('_', '-')}", value)]


def test_a_pruned_network_is_one_like_any_other(best: Path, data: Path) -> None:
    done = run("prune.py", *options(best, percent=0.5, name="half"), folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "prune" / "half"
    names = {"channels.png", "pruned.cfg", "pruned.names", "pruned.pt", "pruned.weights", "report.json"}
    assert {path.name for path in folder.iterdir()} == names
    facts = json.loads((folder / "report.json").read_text())
    whole, half = load_model(weights=best), load_model(folder / "pruned.cfg", folder / "pruned.weights")
    assert facts["before"]["parameters"] == sum(p.numel() for p in whole.parameters())
    assert facts["after"]["parameters"] == sum(p.numel() for p in half.parameters()) < facts["before"]["parameters"]
    assert facts["difference_from_masked"] < 1e-5
    assert 0.5 <= facts["share_of_removable_channels"] < 0.56  # 16 and 16 groups of one and two channels
    assert half.names == whole.names == ["circle", "square", "triangle"]
    images = torch.rand(1, 3, 96, 96)
    assert torch.equal(half(images), load_model(weights=folder / "pruned.pt")(images))
    kept = {row["index"]: row["after"] for row in facts["layers"]}
    assert kept == {node.index: node.options.filters for node in half.graph.nodes if node.kind != "yolo"}
    assert f"layer 0 kept {kept[0]} of 16 filters" in (folder / "pruned.cfg").read_text()
    assert "1 layer keeps all channels, the values of a head: 2" in done.stdout and "AP@.5:.95" in done.stdout
    measured = run("test.py", "--weights", folder / "pruned.pt", "--data", "s.data", "--workers", 0, folder=data)
    assert measured.returncode == 0, measured.stderr
    report = next((data / "runs" / "test").glob("*/metrics.json"))
    assert json.loads(report.read_text())["ap"] == pytest.approx(facts["after"]["ap"])
    train = ["--weights", folder / "pruned.pt", "--data", "s.data", "--epochs", 1, "--workers", 0, "--name", "again"]
    assert run("train.py", *train, folder=data).returncode == 0
    again = load_model(weights=data / "runs" / "train" / "again" / "best.pt")
    assert again.graph.nodes[0].options.filters == kept[0]


def test_targets_are_reached(best: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    base = {"weights": str(best), "round_to": 1, "min_keep": 0.05, "workers": 0}
    share = prune(PruneOptions(**base, target_flops="0.4"))  # type: ignore[arg-type]
    assert 0.3 < share.after.gflops / share.before.gflops <= 0.4
    amount = prune(PruneOptions(**base, target_params="1.5K"))  # type: ignore[arg-type]
    assert 1200 < amount.after.parameters <= 1500
    ticks = iter(range(1000))

    def clock(*_: object) -> object:
        return lambda models: [next(ticks) * 0 + sum(p.numel() for p in model.parameters()) / 100 for model in models]

    monkeypatch.setattr(command, "torch_clock", clock)
    quick = prune(PruneOptions(**base, target_latency_ms=15))  # type: ignore[arg-type]
    assert 12 < (quick.after.milliseconds or 0) <= 15


def test_steps_prune_and_train_in_turns(best: Path, data: Path) -> None:
    more = {"percent": 0.5, "iterations": 2, "finetune_epochs": 1, "batch_size": 8, "name": "steps"}
    done = run("prune.py", *options(best, **more), folder=data)
    assert done.returncode == 0, done.stderr
    folder = data / "runs" / "prune" / "steps"
    steps = [json.loads((folder / f"step{number}" / "report.json").read_text()) for number in (1, 2)]
    shares = [facts["share_of_removable_channels"] for facts in steps]
    assert shares == pytest.approx([1 - 0.5**0.5] * 2, abs=0.06)
    assert steps[1]["before"]["parameters"] == steps[0]["after"]["parameters"]
    assert steps[1]["options"]["min_keep"] == pytest.approx(0.05**0.5)
    options_of_training = json.loads((folder / "step2" / "train" / "options.json").read_text())
    assert options_of_training["t_weights"] == str(best) and options_of_training["epochs"] == 1
    whole = json.loads((folder / "report.json").read_text())
    assert whole["before"] == steps[0]["before"]
    assert whole["after"]["parameters"] == steps[1]["after"]["parameters"]
    images = torch.rand(1, 3, 96, 96)
    trained, written = load_model(weights=folder / "step2/train/best.pt"), folder / "pruned.cfg"
    assert torch.equal(trained(images), load_model(written, folder / "pruned.weights")(images))


@pytest.mark.slow
def test_the_whole_way_and_on_from_where_it_was_stopped(
    best: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    base = {"weights": str(best), "data": "s.data", "round_to": 1, "workers": 0, "batch_size": 8, "auto": True}
    more = {"sparsity_epochs": 2, "rounds": 2, "max_map_drop": 0.5, "name": "auto"}
    measured = command.measure

    def stop(options: PruneOptions) -> Standing:
        if "round1" in options.weights:
            raise Stopped(signal.SIGINT)
        return measured(options)

    monkeypatch.setattr(command, "measure", stop)
    with pytest.raises(Stopped, match=r"go on with: python prune.py --resume runs/prune/auto"):
        command.auto(PruneOptions(**base, **more))  # type: ignore[arg-type]
    monkeypatch.setattr(command, "measure", measured)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "prune_once", _only_round_2(command.prune_once))
    found = command.auto(PruneOptions(resume=str(data / "runs/prune/auto")))
    assert [each.name for each in found] == ["whole", "sparse", "round1", "round2"]
    folder = data / "runs/prune/auto"
    names = {"auto.json", "options.json", "pareto.png", "pruned.cfg", "pruned.names", "pruned.pt", "pruned.weights"}
    assert {path.name for path in folder.iterdir()} == names | {"sparse", "round1", "round2"}
    sizes = [each.standing.parameters for each in found]
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
    chosen = load_model(weights=folder / "pruned.pt")
    assert sum(parameter.numel() for parameter in chosen.parameters()) in sizes
    with pytest.raises(InputError, match=r"expected a folder by prune.py --auto"):
        command.auto(PruneOptions(resume=str(tmp_path)))


def _only_round_2(prune_once: Any) -> Any:
    def checked(options: PruneOptions, folder: Path) -> Any:
        assert folder.name == "round2"
        return prune_once(options, folder)

    return checked


def test_rounding_is_no_fault(best: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    pruning = command.Pruning(PruneOptions(weights=str(best), data="s.data", round_to=1, workers=0))
    real, seen = command.head_difference, []

    def first_wrong(one: Any, other: Any) -> float:
        seen.append(next(pruning.model.parameters()).dtype)
        return 1.0 if len(seen) == 1 else real(one, other)

    monkeypatch.setattr(command, "head_difference", first_wrong)
    assert pruning.proof(pruning.keep())[0] < 1e-6
    assert seen == [torch.float32, torch.float64, torch.float32]


def test_a_dry_run_writes_no_network(best: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    points = dry_run(PruneOptions(weights=str(best), data="s.data", round_to=1, min_keep=0.0, workers=0, name="dry"))
    assert {path.name for path in (data / "runs" / "prune" / "dry").iterdir()} == {"sweep.json", "sweep.png"}
    shares = [point.share for point in points]
    assert shares == sorted(shares) and all(point.share >= point.asked for point in points[:-1])
    sizes = [point.standing.parameters for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert points[0].standing.ap is not None and points[0].share == 0


def test_the_knee_is_where_ap_begins_to_fall() -> None:
    aps = [0.80, 0.80, 0.79, 0.78, 0.5, 0.2]
    points = [SweepPoint(s, s, Standing(1, 1, 1, ap, ap)) for s, ap in zip(np.linspace(0, 0.5, 6), aps, strict=True)]
    assert find_knee(points) is points[3]
    straight = [SweepPoint(s, s, Standing(1, 1, 1, 1 - s, 1 - s)) for s in (0, 0.25, 0.5)]
    assert find_knee(straight) is None
    assert find_knee([SweepPoint(0, s, Standing(1, 1)) for s in (0, 0.1, 0.2)]) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--percent", 1.2], "--percent 1.2: expected 0 to below 1"),
        (["--percent", "nan"], "--percent nan: expected 0 to below 1"),
        (["--percent", 0.3, "--target-flops", "0.5"], "expected one of them"),
        (["--min-keep", 2], "--min-keep 2: expected 0 to below 1"),
        (["--round-to", 0], "--round-to 0"),
        (["--target-flops", "9G"], "less than the present"),
        (["--target-params", 10], "can reach, at least"),
        (["--target-latency-ms", -1], "expected more than 0"),
        (["--importance", "taylor"], "expected --data"),
        (["--dry-run", "--percent", 0.3], "--dry-run with --percent"),
        (["--iterations", 2], "expected --finetune-epochs"),
        (["--finetune-epochs", 2], "expected --data"),
        (["--auto"], "--auto: expected --data"),
        (["--auto", "--data", "shapes.data", "--percent", 0.5], "--auto with --percent"),
        (["--resume", "nowhere"], "expected a folder by prune.py --auto"),
        (["--cfg", "yolov3-tiny.cfg"], "is it from another cfg"),
        (["--img-size", 100], "divisible"),
        (["--data", "coco.data"], "coco.data"),
    ],
)
def test_bad_input_is_one_line(best: Path, data: Path, tmp_path: Path, flags: list[object], message: str) -> None:
    assert_refused(run("prune.py", "--weights", best, *flags, folder=tmp_path), message, tmp_path)


def test_a_data_set_of_other_classes_and_a_network_without_gammas(best: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        f"train: {data}/shapes/images/train\nval: {data}/shapes/images/valid\nnames: [a]\n"
    )
    assert_refused(
        run("prune.py", "--weights", best, "--data", "one.yaml", folder=tmp_path), "3 classes, one.yaml has 1", tmp_path
    )
    plain = Darknet(load_graph(data / "x.cfg"))
    text = plain.graph.to_cfg().replace("batch_normalize=1", "batch_normalize=0")
    (tmp_path / "plain.cfg").write_text(text)
    save_weights(load_model(tmp_path / "plain.cfg"), tmp_path / "plain.weights")
    flags = ["--cfg", "plain.cfg", "--weights", "plain.weights"]
    assert_refused(run("prune.py", *flags, folder=tmp_path), "nothing can be pruned", tmp_path)
    assert run("prune.py", *flags, "--importance", "l2", folder=tmp_path).returncode == 0
