"""What a classifier gets to see: the same for the same key, a square in evaluation, others for unreadable images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from utils.data.classes import ClassSample
from utils.data.classification import (
    ClassAugmentation,
    ClassEvaluationSet,
    ClassTrainingSet,
    class_evaluation_loader,
    collate,
    normalize,
    square,
    to_planes,
)
from utils.data.sampler import Key
from utils.errors import DataError

PLAIN = ClassAugmentation(area=1.0, flip_lr=0.0, randaugment=0, erasing=0.0)


@pytest.fixture
def samples(tmp_path: Path) -> list[ClassSample]:
    """Three images of noise, and one that is none."""
    rng = np.random.default_rng(0)
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    (tmp_path / "3.png").write_bytes(b"no image")
    return [ClassSample(tmp_path / f"{index}.png", index % 2) for index in range(4)]


def test_an_item_depends_on_its_key_alone(samples: list[ClassSample]) -> None:
    dataset = ClassTrainingSet(samples[:3], 32, ClassAugmentation(), seed=5)
    keys = [Key(index, epoch, position, 32, 32) for index in range(2) for epoch in range(2) for position in range(2)]
    state = torch.get_rng_state()
    first = [dataset[key][0] for key in keys]
    assert torch.equal(torch.get_rng_state(), state)  # the training's own chance is left alone
    torch.manual_seed(9)
    second = [ClassTrainingSet(samples[:3], 32, ClassAugmentation(), seed=5)[key][0] for key in reversed(keys)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(second), strict=True))
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    other = ClassTrainingSet(samples[:3], 32, ClassAugmentation(), seed=6)[keys[0]][0]
    assert not torch.equal(first[0], other)
    assert first[0].shape == (3, 32, 32) and first[0].dtype == torch.uint8


def test_without_augmentation_a_square_image_is_only_scaled(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), image)
    got, label, index = ClassTrainingSet([ClassSample(tmp_path / "x.png", 7)], 32, PLAIN)[Key(0, 0, 0, 32, 32)]
    assert torch.equal(got, torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1))
    assert (label, index) == (7, 0)


def test_unreadable_images_are_replaced_in_training_and_left_out_in_evaluation(
    samples: list[ClassSample], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, index = ClassTrainingSet(samples, 32, PLAIN)[Key(3, 0, 0, 32, 32)]
    assert index in range(3)
    assert capsys.readouterr().err.count("3.png") == 1
    with pytest.raises(DataError, match=r"10 images in a row could not be read, the last one .*3\.png"):
        ClassTrainingSet(samples[3:], 32, PLAIN)[Key(0, 0, 0, 32, 32)]
    batches = list(class_evaluation_loader(ClassEvaluationSet(samples, 32), 2, 0))
    assert [batch[2] for batch in batches if batch] == [[0, 1], [2]]
    assert collate([None, None]) is None


def test_evaluation_takes_the_square_in_the_middle(samples: list[ClassSample]) -> None:
    """As Pillow does it, but for rounding."""
    got = ClassEvaluationSet(samples, 24)[0][0]
    image = Image.open(samples[0].image).convert("RGB").crop((8, 0, 56, 48)).resize((24, 24), Image.Resampling.BILINEAR)
    difference = np.abs(got.permute(1, 2, 0).numpy().astype(int) - np.asarray(image).astype(int))
    assert got.shape == (3, 24, 24) and difference.max() <= 1
    assert square(to_planes(np.zeros((1, 20_000, 3), np.uint8)), 224).shape == (3, 224, 224)


def test_normalize() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(3, 1).view(1, 3, 1, 3)
    got = normalize(images)[0, :, 0]
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = [(value / 255 - mean) / std for value in (0, 128, 255)]
        torch.testing.assert_close(got[channel], torch.tensor(expected))
