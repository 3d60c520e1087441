"""What a training does beside learning: ends early, keeps, draws, searches, and says what went wrong."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from benchmark import TrainBenchmark, train_speed
from models import load_model
from tests.training.small import make_set
from train import EpochEnd, TrainOptions, TrainResult, class_factors, main, train
from utils.data.labels import Sample
from utils.errors import InputError, Stopped, WeightsError
from utils.evaluation.metrics import ClassMetrics, Metrics
from utils.options import run_command
from utils.training import detection
from utils.training.autobatch import extrapolate
from utils.training.evolve import evolve
from utils.training.options import command_defaults
from utils.training.stop import StopRequest
from utils.training.trouble import explained

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    make_set(tmp_path, images=16)
    monkeypatch.chdir(tmp_path)
    return TrainOptions(cfg="x.cfg", data="s.data", epochs=2, batch_size=8, workers=0, amp="off")


def options(small: TrainOptions, **changes: object) -> TrainOptions:
    return TrainOptions(**{**vars(small), **changes})


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "results.csv").open()))


def test_the_callback_sees_each_epoch_and_can_end_it(small: TrainOptions) -> None:
    seen: list[EpochEnd] = []

    def watch(end: EpochEnd) -> bool:
        seen.append(end)
        return len(seen) == 2

    result = train(options(small, epochs=9), watch)
    assert [end.record.epoch for end in seen] == [1, 2] and len(rows(result.folder)) == 2
    assert seen[0].metrics is not None and seen[0].record.ap == seen[0].metrics.ap
    assert torch.load(result.folder / "last.pt", weights_only=True).get("training") is None


def test_an_epoch_that_finds_nothing_is_not_the_best(small: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, one = iter([0.0, 0.0, 0.3, 0.0]), {"object": ClassMetrics(0.5, 0.5, 16)}
    monkeypatch.setattr(detection, "measure", lambda *_: Metrics(next(scores), 0.5, 16, 16, one))
    result = train(options(small, epochs=4))
    assert (result.best_epoch, result.metrics.ap) == (3, 0.3)


def test_ended_by_the_callback_without_validation(small: TrainOptions) -> None:
    result = train(options(small, epochs=9, noval=True), lambda end: end.record.epoch == 2)
    assert result.best_epoch == 2 and result.metrics.images == 16 and (result.folder / "best.pt").is_file()


def test_a_checkpoint_with_a_cfg_that_decodes_otherwise(small: TrainOptions) -> None:
    result = train(options(small, epochs=1))
    with pytest.raises(WeightsError, match=r"head 0 was trained with scale_x_y 2\.0, the cfg has 1\.0: leave"):
        load_model("x.cfg", result.folder / "best.pt")
    load_model(result.folder / "model.cfg", result.folder / "best.pt")
    load_model(None, result.folder / "best.pt")


@pytest.mark.parametrize("hyp", [["--hyp", "h.yaml"], ["--hyp=h.yaml"]])
def test_the_command_line_comes_before_the_hyp_file(
    small: TrainOptions, monkeypatch: pytest.MonkeyPatch, hyp: list[str]
) -> None:
    Path("h.yaml").write_text("scale: 0.3\nmosaic: 0.2\n")
    seen: list[TrainOptions] = []
    monkeypatch.setattr("train.train", seen.append)
    arguments = ["--scale", "0.5", *hyp, "--epochs", "3"]  # 0.5 is the usual default, here given on purpose
    run_command(main, TrainOptions, "", arguments, command_defaults)
    assert seen == [TrainOptions(scale=0.5, mosaic=0.2, epochs=3)]


def test_class_factors() -> None:
    def sample(label: int) -> Sample:
        return Sample(Path("x"), np.array([[label, 0.5, 0.5, 0.1, 0.1]], np.float32), (9, 9))

    wanted = TrainOptions(class_weights=True)
    few = [*map(sample, [0, 0, 0, 0, 1])]
    assert class_factors(wanted, few, ("a", "b", "none")) == pytest.approx((0.4, 1.6, 1.0))
    rare = [*map(sample, [*range(19)] * 50), sample(19)]
    factors = class_factors(wanted, rare, tuple(map(str, range(21))))
    assert factors is not None and factors[20] == 1
    assert np.mean(factors[:20]) == pytest.approx(1) and factors[19] > 20 * factors[0]


def test_patience(small: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.25, 0.9])
    one = {"object": ClassMetrics(0.5, 0.5, 16)}
    monkeypatch.setattr(detection, "measure", lambda *_: Metrics(next(scores), 0.5, 16, 16, one))
    result = train(options(small, epochs=20, patience=3))
    assert result.best_epoch == 2 and len(rows(result.folder)) == 5
    assert "ended after epoch 5: no better AP in 3 epochs" in capsys.readouterr().out
    monkeypatch.setattr(detection, "measure", lambda *_: Metrics(0.0, 0.0, 16, 16, one))
    assert len(rows(train(options(small, epochs=20, patience=3)).folder)) == 3  # never any AP


def test_noval_save_period_and_tensorboard(small: TrainOptions) -> None:
    result = train(options(small, epochs=4, noval=True, save_period=2, tensorboard=True))
    assert [row["ap"] == "" for row in rows(result.folder)] == [True, True, True, False]
    assert result.best_epoch == 4
    names = {path.name for path in result.folder.iterdir()}
    assert {"epoch2.pt", "epoch4.pt"} <= names and "epoch3.pt" not in names
    assert any(name.startswith("events.out.tfevents") for name in names)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(result.folder))
    events.Reload()
    assert [event.step for event in events.Scalars("box")] == [1, 2, 3, 4]
    assert events.Scalars("box")[3].value == pytest.approx(float(rows(result.folder)[3]["box"]), rel=1e-4)


def test_bfloat16_trains_much_as_float32(small: TrainOptions) -> None:
    losses = []
    for amp in ("off", "bf16"):
        result = train(options(small, amp=amp, name=amp))
        losses.append(float(rows(result.folder)[-1]["box"]))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.1)


def test_starting_points(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(options(small, epochs=1))
    train(options(small, epochs=1, weights=str(first.folder / "best.weights"), freeze="2"))
    assert "layers 0 to 5 (all)" in capsys.readouterr().out
    train(options(small, epochs=1, cfg=None, weights=str(first.folder / "best.pt")))  # brings its own cfg
    assert "tensors" in capsys.readouterr().out
    frozen = load_model(None, "runs/train/exp-2/last.pt").state_dict()
    start = load_model(None, first.folder / "best.pt").state_dict()
    for name, tensor in start.items():
        if name.startswith(("blocks.0.", "blocks.1.")) and "num_batches" not in name:
            assert torch.equal(tensor, frozen[name]), name


def test_new_heads_reach_into_neighbouring_cells(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    first = train(options(small, epochs=1))
    assert "new heads with scale_x_y=2" in capsys.readouterr().out
    assert "scale_x_y=2" in (first.folder / "model.cfg").read_text()
    kept = train(options(small, epochs=1, scale_x_y=1.0))
    assert "scale_x_y" not in (kept.folder / "model.cfg").read_text()
    trained = train(options(small, epochs=1, cfg="x.cfg", weights=str(kept.folder / "best.weights")))
    assert "scale_x_y" not in (trained.folder / "model.cfg").read_text()  # these heads learned without it


def test_boxes_of_two_classes_as_one(small: TrainOptions) -> None:
    Path("s.data").write_text("classes=2\ntrain=set\nvalid=set\n")
    next(Path("set").glob("*.txt")).write_text("1 0.5 0.5 0.5 0.5\n")
    result = train(options(small, single_cls=True, epochs=1))
    assert list(result.metrics.classes) == ["object"] and result.metrics.labels == 16
    assert (result.folder / "model.names").read_text() == "object\n"


def test_a_killed_worker_is_named_as_such(small: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    from utils.data.dataset import TrainingSet

    original, parent = TrainingSet.__getitem__, os.getpid()

    def deadly(self: TrainingSet, key: object) -> object:
        if os.getpid() != parent and key.position == 9:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, key)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingSet, "__getitem__", deadly)
    with pytest.raises(InputError, match=r"a process that loads images was killed.*fewer --workers"):
        train(options(small, workers=1))


def test_bad_images_are_skipped_and_named_once(small: TrainOptions, capfd: pytest.CaptureFixture[str]) -> None:
    bad = sorted(Path("set").glob("*.png"))[3]

    def damage(_: EpochEnd) -> None:
        bad.write_text("no image any more")

    result = train(options(small, epochs=4, cache="off"), damage)
    assert result.metrics.images == 16 - (result.best_epoch > 1)
    assert capfd.readouterr().err.count("003.png: not an image") == 2  # once in training, once in validation


def test_exhausted_memory_says_what_to_try() -> None:
    for error in (
        torch.cuda.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(InputError, match="try --batch-size 8"), explained(16, StopRequest()):
            raise error
    with pytest.raises(RuntimeError, match="other"), explained(16, StopRequest()):
        raise RuntimeError("other")


def test_autobatch_reads_the_line_through_its_measurements() -> None:
    assert extrapolate(lambda batch: 100 + 10 * batch, limit=1000) == 90
    assert extrapolate(lambda batch: 100 + 10 * batch, limit=145) == 4
    assert extrapolate(lambda batch: 100 + 10 * batch, limit=10**9) == 512
    with pytest.raises(InputError, match="not even one image fits"):
        extrapolate(lambda batch: 100 + 10 * batch, limit=50)


def test_evolve_searches_and_goes_on(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    best = evolve(options(small, evolve=2, epochs=1), train)
    folder = Path("runs/evolve/exp")
    trials = list(csv.DictReader((folder / "trials.csv").open()))
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert float(trials[0]["lr"]) == 0.004 and float(trials[1]["lr"]) != 0.004
    again = evolve(options(small, evolve=3, epochs=1), train)
    trials = list(csv.DictReader((folder / "trials.csv").open()))
    assert len(trials) == 3 and len({trial["lr"] for trial in trials}) == 3
    assert "training 2:" in capsys.readouterr().out and set(again) == set(best)
    train(options(small, epochs=1, hyp=str(folder / "hyp.yaml")))
    with pytest.raises(InputError, match="this search has epochs=1, got 2"):
        evolve(options(small, evolve=4, epochs=2), train)


def test_evolve_starts_anywhere_and_anew_after_a_mistake(small: TrainOptions) -> None:
    start = options(small, evolve=1, epochs=1, project="searches", lr=0.05, optimizer="sgd")
    with pytest.raises(InputError, match=r"--weight-decay 0\.0 with --evolve: expected above 0"):
        evolve(options(start, weight_decay=0.0), train)
    with pytest.raises(InputError, match=r"nowhere\.data"):
        evolve(options(start, data="nowhere.data"), train)
    assert evolve(start, train)["lr"] == 0.05  # above the usual range
    assert [path.name for path in Path("searches/exp").glob("training*")] == ["training0"]


def test_evolve_goes_past_a_training_that_fails(small: TrainOptions) -> None:
    """Also: one that was stopped is begun anew with the same values, and the search is that of one go."""
    calls = 0

    def fake(own: TrainOptions, watch: object) -> TrainResult:
        nonlocal calls
        calls += 1
        if calls in stops:
            raise Stopped(signal.SIGINT)
        if own.name == "training1" and "failing" in str(own.project):
            raise InputError("no")
        return TrainResult(Path(), 1, Metrics(own.lr or 0, 0.5, 16, 16, {}))

    def search(name: str) -> list[dict[str, str]]:
        evolve(options(small, evolve=4, epochs=1, name=name), fake)
        trials = csv.DictReader((Path("runs/evolve") / name / "trials.csv").open())
        return [trial for trial in trials if trial["state"] in ("complete", "pruned")]

    stops: set[int] = set()
    assert [trial["state"] for trial in search("failing")] == ["complete", "pruned", "complete", "complete"]
    calls, whole = 0, search("whole")
    calls, stops = 0, {3}
    with pytest.raises(Stopped):
        search("stopped")
    again = search("stopped")
    assert [trial["lr"] for trial in again] == [trial["lr"] for trial in whole] and len({t["lr"] for t in again}) == 4


def test_evolve_of_an_older_version(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that were removed are no difference; others that are not there any more, or were not yet, are."""

    def fake(own: TrainOptions, watch: object) -> TrainResult:
        return TrainResult(Path(), 1, Metrics(0.5, 0.5, 16, 16, {}))

    def age(**changes: object) -> None:
        study = optuna.load_study(study_name="search", storage="sqlite:///runs/evolve/exp/study.db")
        study.set_user_attr("options", json.dumps({**json.loads(study.user_attrs["options"]), **changes}))

    evolve(options(small, evolve=1), fake)
    age(assign="shape")
    evolve(options(small, evolve=1), fake)
    assert capsys.readouterr().err.count("runs/evolve/exp: ignored what was removed: assign shape\n") == 1
    age(gone=3)
    with pytest.raises(InputError, match=r"^runs/evolve/exp: this search has gone=3, got None; expected the same"):
        evolve(options(small, evolve=1), fake)


def test_evolve_is_not_for_torchrun(small: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--evolve: expected a start without torchrun"):
        evolve(options(small, evolve=2), train)


def test_evolve_stopped(small: TrainOptions) -> None:
    def stopped(*_: object) -> TrainResult:
        raise Stopped(signal.SIGINT)

    with pytest.raises(Stopped, match=r"stopped by SIGINT in training 0, .* go on with the same command"):
        evolve(options(small, evolve=1), stopped)


@pytest.mark.parametrize("layers", ["6", "5"])  # all, and all that have weights
def test_something_must_be_left_to_train(small: TrainOptions, layers: str) -> None:
    with pytest.raises(InputError, match=f"--freeze {layers}: .* nothing would be left to train"):
        train(options(small, freeze=layers))
    assert not Path("runs").exists()


def test_benchmark_prints_its_table(small: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    rows = train_speed(
        TrainBenchmark(cfg=("x.cfg",), img_size=("64",), data="s.data", batch_size=4, workers=0, steps=2, rounds=2)
    )
    assert [(row[1], row[2]) for row in rows] == [("64", "off"), ("64", "ram")]
    for *_, speeds in rows:
        assert speeds.waiting + speeds.gradients + speeds.change == pytest.approx(1, abs=0.2)
        assert min(speeds.loader, speeds.step, speeds.total) > 0
    assert "images a second" in capsys.readouterr().out and not Path("runs").exists()
