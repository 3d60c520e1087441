"""What reaches the network."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch

from utils.data.augment import IGNORED, Augmentation
from utils.data.cache import Pictures
from utils.data.dataset import (
    EvaluationSet,
    TrainingSet,
    collate_training,
    make_evaluation_loader,
    make_training_loader,
)
from utils.data.labels import Sample, pixel_boxes
from utils.data.sampler import Key, StepSampler, rect_sizes
from utils.errors import DataError


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    found = []
    for index in range(5):
        image = np.zeros((60, 80, 3), np.uint8)
        image[15:45, 20:60] = (0, 0, 255)  # red in BGR
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), image)
        found.append(Sample(path, np.array([[index, 0.5, 0.5, 0.5, 0.5]], np.float32), (80, 60)))
    return found


def training_set(samples: list[Sample], size: tuple[int, int] = (64, 64), seed: int = 0) -> TrainingSet:
    return TrainingSet(Pictures(samples, size), Augmentation(), seed)


def test_training_batches(samples: list[Sample]) -> None:
    batches = list(make_training_loader(training_set(samples, (64, 32)), StepSampler(5, 2, (64, 32)), 0))
    assert len(batches) == 2  # what is left over waits for the next shuffle
    for images, targets, used in batches:
        assert images.shape == (2, 3, 32, 64) and images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert targets.shape[1] == 6 and set(targets[:, 0].tolist()) <= {0.0, 1.0}
        assert targets[:, 2:].min() >= 0 and targets[:, 2:].max() <= 1
        assert len(used) == 8 and set(used) <= set(range(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_items_depend_on_seed_and_place_alone(samples: list[Sample], workers: int) -> None:
    sampler = StepSampler(5, 2, (64, 64), seed=3)

    def images(seed: int, epoch: int, start: int = 0) -> list[torch.Tensor]:
        sampler.epoch, sampler.start = epoch, start
        return [batch[0] for batch in make_training_loader(training_set(samples, seed=seed), sampler, workers)]

    first = images(3, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, images(3, 1), strict=True))
    assert torch.equal(images(3, 1, start=1)[0], first[1])  # as after a resumed training
    assert not torch.equal(images(3, 2)[0], first[0]) and not torch.equal(images(4, 1)[0], first[0])


def test_mosaic_closes(samples: list[Sample]) -> None:
    dataset = TrainingSet(Pictures(samples, (64, 64)), Augmentation(mixup=1.0), close_mosaic=2)
    assert len(dataset[Key(0, 1, 0, 64, 64)][2]) == 8  # two mosaics mixed
    assert dataset[Key(0, 2, 0, 64, 64)][2] == [0]
    assert dataset[Key(0, 2, 0, 96, 32)][0].shape == (32, 96, 3)


STILL = Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, value=0, flip_lr=0)


@pytest.mark.parametrize("flips", [{}, {"flip_ud": 1.0}, {"flip_lr": 1.0}, {"flip_ud": 1.0, "flip_lr": 1.0}])
def test_chances_of_one_always_flip(tmp_path: Path, flips: dict[str, float]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    sample = Sample(tmp_path / "a.png", np.array([[0, 0.25, 0.25, 0.25, 0.5]], np.float32), (64, 48))
    got, boxes, _ = TrainingSet(Pictures([sample], (64, 48)), replace(STILL, **flips))[Key(0, 0, 0, 64, 48)]
    rows = slice(None, None, -1) if "flip_ud" in flips else slice(None)
    columns = slice(None, None, -1) if "flip_lr" in flips else slice(None)
    np.testing.assert_array_equal(got.numpy(), image[rows, columns, ::-1])  # RGB
    x, y = (0.75 if name in flips else 0.25 for name in ("flip_lr", "flip_ud"))
    np.testing.assert_allclose(boxes.numpy(), [[0, x, y, 0.25, 0.5]], atol=1e-6)


@pytest.fixture
def tiny(tmp_path: Path) -> list[Sample]:
    """Forty boxes of 8x8 pixels in an image of 1920x1080."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((1080, 1920, 3), np.uint8))
    places = np.random.default_rng(0).uniform(0.1, 0.9, (40, 2))
    sides = np.full((40, 2), (8 / 1920, 8 / 1080))
    labels = np.concatenate((np.ones((40, 1)), places, sides), axis=1).astype(np.float32)
    return [Sample(tmp_path / "a.png", labels, (1920, 1080))]


@pytest.mark.parametrize(("size", "label"), [(416, IGNORED), (640, 1)])
@pytest.mark.parametrize("mixing", [{}, {"mosaic": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}, {"scale": 0.1}])
def test_boxes_too_small_for_the_input_are_ignored(
    tiny: list[Sample], size: int, label: float, mixing: dict[str, float]
) -> None:
    """1.7 pixels at 416, 2.7 at 640: no box is lost, none is background."""
    dataset = TrainingSet(Pictures(tiny, (size, size)), replace(STILL, **mixing))
    _, boxes, _ = dataset[Key(0, 0, 0, size, size)]
    assert len(boxes) >= 40 and (boxes[:, 0] == label).float().mean() > 0.95  # a mosaic cuts some
    targets = collate_training([dataset[Key(0, 0, i, size, size)] for i in range(2)])[1]
    assert (targets[:, 1] == label).float().mean() > 0.95 and set(targets[:, 0].tolist()) == {0, 1}


def test_a_power_line_is_learnt(tmp_path: Path) -> None:
    """400x6 pixels of 416x416, smaller or larger."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((416, 416, 3), np.uint8))
    sample = Sample(tmp_path / "a.png", np.array([[0, 0.5, 0.5, 400 / 416, 6 / 416]], np.float32), (416, 416))
    dataset = TrainingSet(Pictures([sample], (416, 416)), replace(STILL, scale=0.5))
    assert all(dataset[Key(0, 0, i, 416, 416)][1][:, 0].tolist() == [0] for i in range(5))


def test_evaluation_items(samples: list[Sample]) -> None:
    item = EvaluationSet(samples, (64, 64))[3]
    assert item is not None and item.index == 3
    assert item.image.shape == (64, 64, 3) and item.image.dtype == torch.uint8
    assert item.image[32, 32].tolist() == [255, 0, 0]  # RGB
    assert item.image[1, 1].tolist() == [114] * 3
    box = item.placement.to_network(pixel_boxes(samples[3].labels, 80, 60)[:, 1:])
    np.testing.assert_allclose(box, [[16, 20, 48, 44]])
    stretched = EvaluationSet(samples, (64, 64), stretched=True)[0]
    assert stretched is not None and stretched.image.dtype == torch.float32
    assert stretched.image[..., 0].max() == 255 and stretched.image[0].sum() == 0


def test_batches_of_one_shape(samples: list[Sample]) -> None:
    sizes = np.array([[64, 64], [64, 32], [64, 64], [64, 32], [32, 64]])
    batches = list(make_evaluation_loader(EvaluationSet(samples, sizes), 2, 0))
    assert [batch.indices for batch in batches if batch] == [[1, 3], [4], [0, 2]]
    assert [tuple(batch.images.shape[2:]) for batch in batches if batch] == [(32, 64), (64, 32), (64, 64)]


def test_rectangles_are_the_smallest_multiples() -> None:
    sizes = rect_sizes([(640, 480), (480, 640), (100, 100), (1000, 100)], (416, 416), 32)
    assert sizes.tolist() == [[416, 320], [320, 416], [416, 416], [416, 64]]


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_replaced_and_named(
    samples: list[Sample], capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    samples[0].image.write_text("broken")
    dataset = training_set(samples)
    image, _, used = dataset[Key(0, 0, 0, 64, 64)]
    assert image.shape == (64, 64, 3) and len(used) == 4 and 0 not in used  # the ones that came in its place
    assert "0.png" in capfd.readouterr().err
    batch = next(iter(make_evaluation_loader(EvaluationSet(samples, (64, 64)), 5, workers)))
    assert batch.indices == [1, 2, 3, 4] and batch.images.shape == (4, 3, 64, 64)
    for sample in samples:
        sample.image.write_text("broken")
    with pytest.raises(DataError, match="10 images in a row could not be read"):
        dataset[Key(0, 0, 0, 64, 64)]


def test_multi_scale_shows_what_the_source_has(tmp_path: Path) -> None:
    """At the largest size pictures are as sharp as those that are measured at that size."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    sample = Sample(tmp_path / "a.png", np.zeros((0, 5), np.float32), (320, 240))
    sampler = StepSampler(1, 1, (208, 208), multiple=32)
    dataset = TrainingSet(Pictures([sample], sampler.largest), STILL)
    shown = dataset[Key(0, 0, 0, *sampler.largest)][0].numpy()
    measured = EvaluationSet([sample], sampler.largest)[0]
    assert measured is not None and sampler.largest == (320, 320)
    np.testing.assert_array_equal(shown, measured.image.numpy())


@pytest.mark.slow
def test_loading_processes_do_not_grow(samples: list[Sample]) -> None:
    sampler = StepSampler(160, 16, (416, 416))
    loader = make_training_loader(training_set(samples * 32, (416, 416)), sampler, 1)
    private = []
    for sampler.epoch in range(6):
        for _ in loader:
            pass
        (worker,) = psutil.Process().children()
        private.append(worker.memory_full_info().uss)
    assert private[-1] - private[1] < 20e6, private
