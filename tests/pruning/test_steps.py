"""prune.py with trainings in between: steps, --auto, and going on with what was stopped."""

import json
import math
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import prune as command
from models import Darknet, load_model, save_weights
from prune import PruneOptions, auto, prune, resume, start
from tests.commands import assert_refused, run
from tests.conftest import randomise
from utils.errors import InputError, Stopped
from utils.network.graph import fit_heads, load_graph
from utils.training.autoprune import recommended
from utils.training.options import TrainOptions
from utils.training.recovery import train_or_go_on

NAMES = ["circle", "square", "triangle"]


class QuickTraining:
    """In place of train.py: the network as it is."""

    def __init__(self) -> None:
        self.log: list[TrainOptions] = []
        self.stop_at = 0

    def __call__(self, options: TrainOptions) -> Any:
        self.log.append(options)
        if len(self.log) == self.stop_at:
            raise Stopped(signal.SIGINT)
        folder = Path(options.project or "") / options.name
        folder.mkdir()
        for name in ("best.pt", "last.pt"):
            shutil.copy(options.weights or "", folder / name)
        return SimpleNamespace(folder=folder)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> QuickTraining:
    quick = QuickTraining()
    monkeypatch.setattr(command, "train", quick)
    return quick


@pytest.fixture
def here(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, beside the data s.data."""
    monkeypatch.chdir(tmp_path)
    text = (data / "s.data").read_text().replace("=shapes", f"={data}/shapes").replace("=s.names", f"={data}/s.names")
    (tmp_path / "s.data").write_text(text)
    return tmp_path


def shipped(cfg: str, folder: Path) -> Darknet:
    """A network of cfg/ for the data, with random weights, in net.cfg, net.weights and net.pt."""
    model = Darknet(fit_heads(load_graph(cfg), 3))
    randomise(model)
    model.names = NAMES
    save_weights(model, folder / "net.pt")
    save_weights(model, folder / "net.weights")
    (folder / "net.cfg").write_text(model.graph.to_cfg())
    return model


def options(**more: Any) -> PruneOptions:
    common = {
        "weights": "net.pt",
        "data": "s.data",
        "img_size": 96,
        "workers": 0,
        "finetune_epochs": 1,
        "importance": "gamma",
    }
    return PruneOptions(**common | more)


def filters(model: Darknet) -> list[int]:
    return [node.options.filters for node in model.graph.nodes if hasattr(node.options, "filters")]


# ---- Steps ---------------------------------------------------------------------------------------------------------


def test_steps_prune_and_train_in_turns(trained: Path, here: Path) -> None:
    best = trained / "best.pt"
    flags = ["--percent", 0.5, "--iterations", 2, "--finetune-epochs", 1, "--batch-size", 8, "--round-to", 1]
    done = run("prune.py", "--weights", best, "--data", "s.data", "--workers", 0, *flags, folder=here)
    assert done.returncode == 0, done.stderr
    folder = here / "runs" / "prune" / "exp"
    steps = [json.loads((folder / f"step{number}" / "report.json").read_text()) for number in (1, 2)]
    assert [facts["share_of_removable_channels"] for facts in steps] == pytest.approx([1 - 0.5**0.5] * 2, abs=0.06)
    assert steps[1]["before"]["parameters"] == steps[0]["after"]["parameters"]
    options_of_training = json.loads((folder / "step2" / "train" / "options.json").read_text())
    assert options_of_training["t_weights"] == str(best) and options_of_training["epochs"] == 1
    whole = json.loads((folder / "report.json").read_text())
    assert whole["before"]["ap"] == steps[0]["before"]["ap"]
    assert whole["after"]["parameters"] == steps[1]["after"]["parameters"]
    images = torch.rand(1, 3, 96, 96)
    after, written = load_model(weights=folder / "step2/train/best.pt"), folder / "pruned.cfg"
    assert torch.equal(after(images), load_model(written, folder / "pruned.weights")(images))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "value", "iterations"),
    [("target_flops", "0.3", 8), ("target_flops", "0.15", 5), ("target_params", "0.2", 4), ("percent", 0.7, 8)],
)
def test_many_steps_reach_what_one_step_reaches(
    here: Path, training: QuickTraining, target: str, value: Any, iterations: int
) -> None:
    whole = shipped("ghost-yolov3-tiny-lite.cfg", here)
    done = prune(options(iterations=iterations, **{target: value}))
    left = load_model(weights=done.folder / "pruned.pt")
    once = prune(options(finetune_epochs=0, **{target: value}))
    for size in ("gflops", "parameters"):
        ours, theirs = getattr(done.after, size), getattr(once.after, size)
        assert ours == pytest.approx(theirs, rel=0.15)
    if target != "percent":
        size = {"target_flops": "gflops", "target_params": "parameters"}[target]
        assert getattr(done.after, size) <= float(value) * getattr(done.before, size)
    for now, before in zip(filters(left), filters(whole), strict=True):
        assert now >= math.ceil(0.1 * before)
    assert len(training.log) == iterations and {each.t_weights for each in training.log} == {str(here / "net.pt")}


@pytest.mark.parametrize("target", ["target_flops", "target_latency_ms"])
def test_a_step_that_goes_too_far_is_enough(
    here: Path, training: QuickTraining, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """The first step leaves less than all steps shall: later ones find nothing to do, and that is no error."""
    whole = shipped("ghost-yolov3-tiny-lite.cfg", here)
    size = sum(parameter.numel() for parameter in whole.parameters())

    def clock(*_: object, **__: object) -> object:
        return lambda models: [100 * sum(p.numel() for p in model.parameters()) / size for model in models]

    monkeypatch.setattr("utils.training.pruner.clock_of", clock)
    present = start(options()).costs.gflops(np.ones(start(options()).groups.count, bool))
    goal: Any = 99.0 if target == "target_latency_ms" else f"{0.99 * present}G"
    done = prune(options(iterations=3, round_to=64, **{target: goal}))
    shares = [
        json.loads((done.folder / f"step{n}" / "report.json").read_text())["share_of_removable_channels"]
        for n in (1, 2, 3)
    ]
    assert shares[0] > 0 and shares[1:] == [0, 0]


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_share_is_one_of_the_network_that_was_given(here: Path, training: QuickTraining, iterations: int) -> None:
    """Also where whole blocks go first, and where that is enough."""
    shipped("ghostnet-yolov3-nano.cfg", here)
    blocks = prune(options(finetune_epochs=0, layers=6, percent=0.0))
    assert blocks.after.gflops < 0.85 * blocks.before.gflops
    half = prune(options(layers=6, target_flops="0.5", iterations=iterations))
    assert 0.4 < half.after.gflops / half.before.gflops <= 0.5
    enough = prune(options(layers=6, target_flops="0.9", iterations=iterations))
    assert enough.after.gflops == blocks.after.gflops


def test_darknet_weights_as_start_and_teacher(here: Path, training: QuickTraining) -> None:
    shipped("ghost-yolov3-tiny-lite.cfg", here)
    prune(options(weights="net.weights", cfg="net.cfg", iterations=2))
    for each in training.log:
        assert (each.t_weights, each.t_cfg) == (str(here / "net.weights"), str(here / "net.cfg"))
        assert str(each.weights).endswith("pruned.pt") and each.img_size == 96


def test_stopped_steps_go_on(here: Path, training: QuickTraining) -> None:
    shipped("ghost-yolov3-tiny-lite.cfg", here)
    training.stop_at = 2
    with pytest.raises(Stopped, match=r"in step 2 of 3; go on with: python prune.py --resume runs/prune/exp$"):
        prune(options(iterations=3))
    straight = prune(options(iterations=3))
    training.log.clear()
    training.stop_at = 0
    resumed = resume(PruneOptions(resume="runs/prune/exp", device="cpu", workers=1))
    assert [Path(each.project or "").name for each in training.log] == ["step2", "step3"]
    assert {(each.device, each.workers) for each in training.log} == {("cpu", 1)}
    names = ["runs/prune/exp", "runs/prune/exp-2"]
    one, other = (load_model(weights=f"{name}/pruned.pt").state_dict() for name in names)
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert resumed.folder.name == "exp" and straight.folder.name == "exp-2"  # type: ignore[union-attr]


def test_ctrl_c_before_a_training_and_what_is_finished(
    here: Path, training: QuickTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped("ghost-yolov3-tiny-lite.cfg", here)
    write = command.write_pruned

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_pruned", interrupted)
    with pytest.raises(Stopped, match=r"stopped by SIGINT in step 1 of 1; go on with: python prune.py --resume runs"):
        prune(options())
    monkeypatch.setattr(command, "write_pruned", write)
    again = PruneOptions(resume="runs/prune/exp", workers=0)
    resume(again)
    with pytest.raises(InputError, match=r"--resume runs/prune/exp: it is finished already"):
        resume(again)


def test_a_training_that_was_stopped_goes_on_on_the_same_machine(
    here: Path, training: QuickTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = TrainOptions(weights="w.pt", project=str(here), name="train", device="cpu", workers=0, epochs=3)
    (here / "train").mkdir()
    (here / "train" / "labels.png").touch()
    (here / "w.pt").touch()
    assert train_or_go_on(wanted, training) == here / "train"  # nothing to go on from: begun anew, in the same place
    assert training.log == [wanted] and not (here / "train" / "labels.png").exists()
    monkeypatch.setattr("utils.training.recovery.read_checkpoint", lambda path: SimpleNamespace(training={}))
    monkeypatch.setattr(QuickTraining, "__call__", lambda self, options: self.log.append(options))
    assert train_or_go_on(wanted, training) == here / "train"
    assert training.log[1] == TrainOptions(resume=str(here / "train"), device="cpu", workers=0)


# ---- The whole way -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_way_and_on_from_where_it_was_stopped(
    trained: Path, here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"data": "s.data", "round_to": 1, "workers": 0, "batch_size": 8, "auto": True}
    more = {"finetune_epochs": 2, "rounds": 2, "max_map_drop": 0.5}
    load, measure = command.load_model, command.standings

    def good(*what: Any) -> Any:  # two epochs on 24 images bring no AP that could be lost
        return [replace(each, ap=0.6) for each in measure(*what)]

    monkeypatch.setattr(command, "standings", good)

    def stop(cfg: Any = None, weights: Any = None, **rest: Any) -> Darknet:
        if "round1/train" in str(weights):
            raise Stopped(signal.SIGINT)
        return load(cfg, weights, **rest)

    monkeypatch.setattr(command, "load_model", stop)
    with pytest.raises(Stopped, match=r"in round 1; go on with: python prune.py --resume runs/prune/exp$"):
        auto(PruneOptions(weights=str(trained / "best.pt"), **base, **more))  # type: ignore[arg-type]
    monkeypatch.setattr(command, "load_model", load)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(command, "prune_once", _only_round_2(command.prune_once))
    folder = here / "runs/prune/exp"
    found: Any = resume(PruneOptions(resume=str(folder), workers=0))
    assert [each.name for each in found] == ["whole", "round1", "round2"]
    names = {"auto.json", "prune.json", "pareto.png", "pruned.cfg", "pruned.names", "pruned.pt", "pruned.weights"}
    assert {path.name for path in folder.iterdir()} == names | {"round1", "round2"}
    sizes = [each.standing.parameters for each in found]
    assert sizes[0] > sizes[1] > sizes[2]
    chosen = load_model(weights=folder / "pruned.pt")
    assert sum(parameter.numel() for parameter in chosen.parameters()) == recommended(found).standing.parameters


def _only_round_2(prune_once: Any) -> Any:
    def checked(options: PruneOptions, folder: Path) -> Any:
        assert folder.name == "round2"
        return prune_once(options, folder)

    return checked


# ---- Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [["--finetune-epochs", 1], ["--auto"]])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "other.data"], "expected the classes of the network, circle, square, triangle; got a, b, c"),
        (["--data", "bare.data"], "bare.data: expected the key train, which prune.py needs"),
        (["--seed", -1], "--seed -1"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    trained: Path, here: Path, kind: list[object], flags: list[object], message: str
) -> None:
    (here / "abc.names").write_text("a\nb\nc\n")
    lines = (here / "s.data").read_text().splitlines()
    (here / "other.data").write_text("\n".join([*lines[:-1], "names=abc.names"]))
    (here / "bare.data").write_text("\n".join(line for line in lines if not line.startswith("train")))
    common = ["--weights", trained / "best.pt", "--data", "s.data", *kind]
    assert_refused(run("prune.py", *common, *flags, folder=here), message, here)


def test_an_unreachable_target_is_found_before_anything_is_written(trained: Path, here: Path) -> None:
    flags = ["--weights", trained / "best.pt", "--data", "s.data", "--finetune-epochs", 1, "--target-params", 10]
    assert_refused(run("prune.py", *flags, folder=here), "can reach, at least", here)


def test_a_drop_that_allows_everything(trained: Path, here: Path) -> None:
    flags = ["--weights", trained / "best.pt", "--data", "s.data", "--workers", 0, "--auto", "--max-map-drop", 0.99]
    assert_refused(run("prune.py", *flags, folder=here), "--max-map-drop 0.99: expected less than 0.", here)


def test_what_cannot_be_resumed(here: Path) -> None:
    wrong = "expected a folder of prune.py --auto or --finetune-epochs"
    for content in (None, "{", json.dumps({"cutoff": 1})):
        if content is not None:
            (here / "prune.json").write_text(content)
        assert_refused(run("prune.py", "--resume", ".", folder=here), wrong, here)
    (here / "prune.json").write_text(json.dumps(asdict(PruneOptions(auto=True))))
    with pytest.raises(InputError, match="--resume with --rounds: expected only --device"):
        resume(PruneOptions(resume=".", rounds=9, workers=0))
