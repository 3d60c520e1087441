"""What reaches the network."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.data.dataset import EvaluationSet, TrainingSet, make_loader, pixel_boxes
from utils.data.labels import Sample
from utils.errors import DataError


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    found = []
    for index in range(5):
        image = np.zeros((60, 80, 3), np.uint8)
        image[15:45, 20:60] = (0, 0, 255)  # red in BGR
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), image)
        found.append(Sample(path, np.array([[index, 0.5, 0.5, 0.5, 0.5]], np.float32)))
    return found


def test_training_batches(samples: list[Sample]) -> None:
    loader = make_loader(TrainingSet(samples, (64, 32)), 2, 0, train=True)
    batches = list(loader)
    assert len(batches) == 2  # the last partial one is left out
    for images, targets in batches:
        assert images.shape == (2, 3, 32, 64) and images.dtype == torch.uint8
        assert targets.shape[1] == 6 and set(targets[:, 0].tolist()) <= {0.0, 1.0}
        assert targets[:, 2:].min() >= 0 and targets[:, 2:].max() <= 1


def test_same_seed_same_batches(samples: list[Sample]) -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(iter(make_loader(TrainingSet(samples, (64, 64)), 4, 0, train=True, seed=seed)))[0]

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_evaluation_items(samples: list[Sample]) -> None:
    item = EvaluationSet(samples, (64, 64))[3]
    assert item is not None and item.index == 3
    assert item.image.shape == (3, 64, 64) and item.image.dtype == torch.float32
    assert item.image[:, 32, 32].tolist() == [1.0, 0.0, 0.0]  # RGB
    np.testing.assert_allclose(item.image[:, 1, 1], 114 / 255, atol=1e-6)
    box = item.placement.to_network(pixel_boxes(samples[3].labels, 80, 60)[:, 1:])
    np.testing.assert_allclose(box, [[16, 20, 48, 44]])
    stretched = EvaluationSet(samples, (64, 64), stretched=True)[0]
    assert stretched is not None and stretched.image[0].max() == 1 and stretched.image[:, 0, 0].sum() == 0


def test_unreadable_images_are_replaced_and_named(samples: list[Sample], capsys: pytest.CaptureFixture[str]) -> None:
    samples[0].image.write_text("broken")
    dataset = TrainingSet(samples, (64, 64))
    assert dataset[0][0].shape == (3, 64, 64)
    assert "0.png" in capsys.readouterr().err
    items = next(iter(make_loader(EvaluationSet(samples, (64, 64)), 5, 0, train=False)))
    assert [item.index for item in items] == [1, 2, 3, 4]
    for sample in samples:
        sample.image.write_text("broken")
    with pytest.raises(DataError, match="10 images in a row could not be read"):
        TrainingSet(samples, (64, 64))[0]
