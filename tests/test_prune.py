"""prune.py as a user runs it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import prune as command
from models import Darknet, load_model, save_weights
from prune import PruneOptions, dry_run, prune
from tests.commands import assert_refused, run
from utils.data.dataset import TrainingSet
from utils.errors import InputError
from utils.network.graph import load_graph
from utils.pruning.apply import head_difference
from utils.pruning.cost import Standing
from utils.pruning.report import SweepPoint, find_knee
from utils.training import pruner


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
    assert "1 layer keeps all channels, the outputs of a head: 2" in done.stdout and "AP@.5:.95" in done.stdout
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


@pytest.mark.parametrize("noise", [0, 0.05])
def test_a_target_of_milliseconds(best: Path, data: Path, monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    monkeypatch.chdir(data)
    generator = np.random.default_rng(0)

    def clock(*_: object, **__: object) -> object:
        return lambda models: [count(model) / 100 * (1 + noise * generator.random()) for model in models]

    monkeypatch.setattr("utils.training.pruner.clock_of", clock)
    base = {"weights": str(best), "round_to": 1, "min_keep": 0.05, "workers": 0}
    for goal in (20, 18, 16, 15, 14):
        quick = prune(PruneOptions(**base, target_latency_ms=goal))  # type: ignore[arg-type]
        assert 0.8 * goal < (quick.after.milliseconds or 0) <= goal * (1 + noise)
    with pytest.raises(InputError, match="can reach, at least"):
        prune(PruneOptions(**base, target_latency_ms=0.5))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--target-latency-ms 99: expected less than the present"):
        prune(PruneOptions(**base, target_latency_ms=99))  # type: ignore[arg-type]


def count(model: Darknet) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_rounding_is_no_fault(best: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    pruning = command.start(PruneOptions(weights=str(best), data="s.data", round_to=1, workers=0))
    real, seen = head_difference, []

    def first_wrong(one: Any, other: Any) -> float:
        seen.append(next(pruning.model.parameters()).dtype)
        return 1.0 if len(seen) == 1 else real(one, other)

    monkeypatch.setattr("utils.training.pruner.head_difference", first_wrong)
    assert pruning.proof(pruning.keep(pruning.target()))[1] < 1e-6
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


def test_a_dry_run_says_how_far_it_comes(
    best: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data)
    points = dry_run(PruneOptions(weights=str(best), min_keep=0.5, round_to=1, workers=0, name="half"))
    assert 0.4 < points[-1].share < 0.6  # each layer keeps half
    assert (
        f"no more than {points[-1].share:.0%} can go: all that --strategy slim, --min-keep 0.5"
        in capsys.readouterr().out
    )


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
        (["--percent", 1.2], "--percent 1.2: expected a share, 0 to below 1"),
        (["--percent", "nan"], "--percent nan: expected a share"),
        (["--percent", 0.3, "--target-flops", "0.5"], "expected one of them"),
        (["--min-keep", 2], "--min-keep 2: expected a share"),
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
        (["--auto", "--data", "shapes.data", "--finetune-epochs", 0], "--auto with --finetune-epochs 0"),
        (["--target-latency-ms", "nan"], "expected more than 0"),
        (["--seed", -1], "--seed -1: expected 0 to"),
        (["--layers", 1], "--layers 1: expected at most 0"),
        (["--max-map-drop", 0.1], "--max-map-drop without --auto"),
        (["--percent", 0.0], "nothing would be removed"),
        (["--percent", 0.5, "--round-to", 1000], "nothing would be removed"),
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


# ---- What the Taylor criterion looks at ------------------------------------------------------------------------------


def test_taylor_looks_at_single_images_from_the_whole_list(
    best: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], float]] = []

    def record(pictures: Any, augmentation: Any, *rest: Any, **more: Any) -> Any:
        seen.append(([sample.image.name for sample in pictures.samples], augmentation.mosaic))
        return TrainingSet(pictures, augmentation, *rest, **more)

    monkeypatch.chdir(data)
    monkeypatch.setattr(pruner, "TrainingSet", record)
    monkeypatch.setattr(pruner, "TAYLOR_IMAGES", 6)
    for seed in (0, 0, 1):
        command.start(PruneOptions(weights=str(best), data="s.data", workers=0, batch_size=6, seed=seed))
    names, again, others = (each for each, _ in seen)
    assert names == again != others and len(set(names)) == len(set(others)) == 6
    assert set(names + others) - {f"{index:04d}.jpg" for index in range(1, 7)}
    assert [mosaic for _, mosaic in seen] == [0, 0, 0]
