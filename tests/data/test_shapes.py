"""utils/data/shapes.py: the same pixels everywhere, labels that fit what is drawn, folders that are whole."""

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from utils.data import shapes
from utils.data.images import read_image
from utils.data.labels import load_samples
from utils.data.shapes import draw, generate


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "index", "size", "image_digest", "labels_digest"),
    [
        ("train", 0, 416, "650b0d199608a946", "6e237edd12eb5a73"),
        ("train", 7, 416, "b5363c4c1c164899", "279d65c78fff04cf"),
        ("valid", 0, 416, "3a848ea6a7babb0d", "77a74846f3e488aa"),
        ("train", 1, 160, "c6d48163bc1adec8", "4201933b1846a13a"),
    ],
)
def test_every_machine_draws_the_same(split: str, index: int, size: int, image_digest: str, labels_digest: str) -> None:
    image, labels = draw(split, index, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert (digest(image), digest(labels)) == (image_digest, labels_digest)


def test_images_differ_by_index_split_and_seed() -> None:
    drawn = [draw("train", 0), draw("train", 1), draw("valid", 0), draw("train", 0, seed=1)]
    assert len({digest(image) for image, _ in drawn}) == 4


def test_labels_are_in_range_and_of_the_promised_sizes() -> None:
    labels = [draw("train", index)[1] for index in range(60)]
    counts = [len(each) for each in labels]
    assert min(counts) >= 1 and max(counts) <= 6
    boxes = np.concatenate(labels)
    assert set(boxes[:, 0]) == {0, 1, 2}
    low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
    assert low.min() >= -1e-9 and high.max() <= 1 + 1e-9
    assert (low.min(axis=0) < 1e-9).all() and (high.max(axis=0) > 1 - 1e-9).all(), "some are cut at the border"
    longest = boxes[:, 3:].max(axis=1) * 416
    assert longest.min() >= 10 and 140 <= longest.max() <= 172


def test_box_is_tight_on_the_part_within_the_image() -> None:
    square = np.array([[-160, -160], [160, -160], [160, 160], [-160, 160]])  # 20 pixels wide, in 1/16 pixel
    for centre, expected in (((50, 40), (40, 30, 61, 51)), ((5, 40), (0, 30, 16, 51))):
        cx, cy, w, h = shapes._box(shapes._fill(square, np.array(centre), 100))
        edges = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * 100
        np.testing.assert_allclose(edges, expected, atol=1e-9)


def test_shapes_have_their_areas() -> None:
    """Pixel counts against closed forms for a circumscribed radius of 80 pixels."""
    random = np.random.Generator(np.random.PCG64(0))
    expected = {"circle": np.pi * 80**2, "square": 2 * 80**2}
    for label, name in enumerate(shapes.NAMES[:2]):
        for _ in range(5):
            mask = shapes._fill(shapes._corners(random, label, 80), np.array([100, 100]), 200)
            assert np.count_nonzero(mask) == pytest.approx(expected[name], rel=0.03)


def test_no_object_is_mostly_hidden() -> None:
    random = np.random.Generator(np.random.PCG64(5))
    for _ in range(10):
        image = shapes._background(random, 128)
        objects: list[shapes._Object] = []
        for _ in range(12):
            shapes._add_object(random, image, objects)
        for found in objects:
            assert np.count_nonzero(found.uncovered) >= 0.6 * np.count_nonzero(found.mask)


def test_generate_writes_a_whole_set(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "shapes"
    generate(folder, train=5, valid=3, size=128)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["shapes"]
    for split, count in (("train", 5), ("valid", 3)):
        images = sorted((folder / "images" / split).iterdir())
        assert len(images) == count
        samples, problems = load_samples(images, 3, split)
        assert problems == []
        for index, sample in enumerate(samples):
            image, labels = draw(split, index, 128)
            np.testing.assert_allclose(sample.labels, labels, atol=1e-6)
            assert np.abs(read_image(sample.image).astype(int) - image).mean() < 12, "JPEG's loss only"


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shapes" / "images").mkdir(parents=True)
    generate(tmp_path / "shapes", train=2, valid=1, size=64)
    assert list((tmp_path / "shapes" / "images").iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, image: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_save_image", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "shapes", train=2, valid=1, size=64)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_end_with_one_whole_set(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            generate(tmp_path / "shapes", train=6, valid=2, size=96)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    assert len(list((tmp_path / "shapes").rglob("*.jpg"))) == 8 == len(list((tmp_path / "shapes").rglob("*.txt")))
