"""Redundancy of feature maps: filters that are known, NumPy's least squares pair by pair, the command."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import load_model
from tests.commands import CFG, assert_refused, run
from tests.conftest import randomise
from utils.errors import InputError
from utils.network.redundancy import best_pairs, feature_maps, format_report, measure, pair_errors, reproduce


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filtered(source: Tensor, seed: int) -> Tensor:
    """A map (H, W) through PyTorch's own convolution: a random kernel, a bias, zeros around."""
    return F.conv2d(source[None, None], noise(1, 1, 3, 3, seed=seed), noise(1, seed=seed), padding=1)[0, 0]


def lstsq_error(source: np.ndarray, target: np.ndarray) -> float:
    """Residual over total sum of squares, by NumPy, position by position."""
    height, width = source.shape
    padded = np.pad(source, 1)
    rows = [[*padded[y : y + 3, x : x + 3].ravel(), 1.0] for y in range(height) for x in range(width)]
    goal = target.ravel()
    weights = np.linalg.lstsq(np.array(rows), goal, rcond=None)[0]
    return float(((np.array(rows) @ weights - goal) ** 2).sum() / ((goal - goal.mean()) ** 2).sum())


def test_a_filtered_map_is_found_with_its_source() -> None:
    maps = noise(6, 20, 31)
    maps[4] = filtered(maps[1], seed=1)
    maps[2] = 1000 * filtered(maps[5], seed=2) - 7
    found = measure(maps)
    assert {(pair.source, pair.target) for pair in found.pairs[:2]} == {(1, 4), (5, 2)}
    assert found.errors[1, 4] < 1e-10 and found.errors[5, 2] < 1e-10
    assert found.errors[4, 1] > 0.01 and found.errors[2, 5] > 0.01  # a 3x3 kernel cannot undo one
    torch.testing.assert_close(reproduce(maps[1], maps[4]), maps[4])
    assert found.count_under(0.05) == 2


def test_noise_is_reproduced_by_chance_alone() -> None:
    errors = pair_errors(noise(12, 40, 40))
    pairs = errors[errors.isfinite()]
    assert len(pairs) == 12 * 11
    assert pairs.min() > 0.97 and pairs.max() <= 1
    assert abs(float(pairs.mean()) - (1 - 9 / (40 * 40 - 1))) < 1e-3  # nine weights take nine degrees of freedom


@pytest.mark.parametrize("kind", ["noise", "smooth", "rows", "tiny", "far"])
def test_equal_to_numpy_for_every_pair(kind: str) -> None:
    maps = noise(5, 9, 14)
    if kind == "smooth":  # shifts that are nearly the same
        maps = F.interpolate(noise(1, 5, 2, 3), (24, 24), mode="bicubic")[0]
    elif kind == "rows":  # shifts that are the same but at the border
        maps[:] = noise(5, 9, 1)
    elif kind == "tiny":
        maps *= 1e-6
    elif kind == "far":
        maps += 1000
    errors = pair_errors(maps)
    for source in range(5):
        for target in range(5):
            if source != target:
                expected = lstsq_error(maps[source].numpy(), maps[target].numpy())
                assert float(errors[source, target]) == pytest.approx(expected, abs=1e-9)
                residual = (reproduce(maps[source], maps[target]) - maps[target]).square().sum()
                total = (maps[target] - maps[target].mean()).square().sum()
                assert float(residual / total) == pytest.approx(expected, abs=1e-9)


def test_constant_maps_are_left_out_and_counted() -> None:
    maps = noise(6, 12, 12)
    maps[0], maps[3] = 0, 2.5 + 1e-8 * maps[3]  # dead, and constant but for the rounding of float32
    found = measure(maps)
    for index in (0, 3):
        assert found.errors[index].isinf().all() and found.errors[:, index].isinf().all()
    assert len(found.best) == 4 and {0, 3}.isdisjoint(
        {end for pair in found.pairs for end in (pair.source, pair.target)}
    )
    assert format_report(found).startswith("2 constant maps left out; 4 compared")


def test_pairs_share_no_map_and_ascend() -> None:
    errors = torch.full((5, 5), torch.inf, dtype=torch.float64)
    for source, target, error in ((0, 1, 0.0), (1, 0, 0.01), (0, 2, 0.02), (2, 3, 0.3), (3, 4, 0.2), (4, 2, 0.25)):
        errors[source, target] = error
    assert [(pair.source, pair.target, pair.error) for pair in best_pairs(errors, 9)] == [(0, 1, 0.0), (3, 4, 0.2)]
    assert len(best_pairs(errors, 1)) == 1


def test_maps_are_those_of_the_layer(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    model = load_model(tmp_path / "x.cfg")
    randomise(model)
    image = torch.rand(3, 96, 96)
    expected = model.blocks[1](model.blocks[0](image[None]))[0]
    maps = feature_maps(model, model.blocks[1], image)
    assert maps.dtype == torch.float64 and torch.equal(maps.float(), expected)


def test_a_linear_ghost_layer_is_half_made_from_its_primary_maps(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG.replace("activation=leaky", "activation=linear"))
    model = load_model(tmp_path / "x.cfg")
    randomise(model)
    errors = pair_errors(feature_maps(model, model.blocks[1], torch.rand(3, 192, 192)))  # (32, 32), 16 primary
    assert (errors.diagonal(16) < 1e-9).all()
    assert int((errors < 1e-9).sum()) == 16


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (noise(4, 2, 5), "expected more than 10 positions"),
        (noise(1, 9, 9), "expected two maps that vary over the image, got 1 of 1"),
        (torch.ones(3, 9, 9, dtype=torch.float64), "got 0 of 3"),
        (torch.full((3, 9, 9), torch.nan, dtype=torch.float64), "expected finite feature maps"),
    ],
)
def test_what_cannot_be_measured(maps: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(maps)


def test_command(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    cv2.imwrite(str(tmp_path / "a.png"), (noise(50, 80, 3).numpy() * 40 + 128).clip(0, 255).astype(np.uint8))
    looking = ["models.py", "--cfg", "x.cfg", "--source", "a.png", "--redundancy"]
    done = run(*looking, 1, "--img-size", "128,96", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "image: a.png, 80x50 letterboxed to 128x96" in done.stdout
    assert "layer 1 [ghost]: 32 maps of 8x6; freshly initialised weights, nothing learnt" in done.stdout
    assert "under 0.3: " in done.stdout and " -> " in done.stdout and "Total params" not in done.stdout
    assert done.stdout.endswith("runs/models/x-layer1.png: written\n")
    assert cv2.imread(str(tmp_path / "runs/models/x-layer1.png")).std() > 5

    run("models.py", "--cfg", "x.cfg", "--save", "x.weights", folder=tmp_path)
    done = run(*looking, 2, "--weights", "x.weights", "--output", "two.png", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 maps of 6x6; x.weights\n" in done.stdout and (tmp_path / "two.png").exists()


def test_bad_input_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text(CFG)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    for arguments, message in (
        (["x.cfg", "--redundancy", 4], "--redundancy 4: x.cfg has no such layer, expected 0 to 3"),
        (["x.cfg", "--redundancy", "-1"], "--redundancy -1: x.cfg has no such layer"),
        (["x.cfg", "--redundancy", 3], "--redundancy 3: x.cfg:22: [yolo] has no feature maps"),
        (["x.cfg", "--redundancy", 0, "--source", "gone.jpg"], "gone.jpg: no such file"),
        (["x.cfg", "--redundancy", 0, "--source", "x.cfg"], "x.cfg: not an image"),
        (["x.cfg", "--redundancy", 0, "--source", "a.png", "--img-size", 100], "divisible by 16"),
        (
            ["x.cfg", "--redundancy", 2, "--source", "a.png", "--img-size", 32],
            "layer 2 [convolutional]: 12 maps of 2x2: expected more",
        ),
        (["x.cfg", "--redundancy", 0, "--output", "a.txt"], "--output a.txt: expected a name that ends in .png"),
        (["x.cfg", "--source", "a.png"], "--source: expected --redundancy with it"),
        (["x.cfg", "--output", "b.png"], "--output: expected --redundancy with it"),
    ):
        assert_refused(run("models.py", "--cfg", *arguments, folder=tmp_path), message, tmp_path)
