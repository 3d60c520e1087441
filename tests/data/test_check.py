"""utils/data/check.py: every problem is printed, the figures are right, and the exit code says which it was."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.check import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training images (100x50, one without boxes) and one to validate on, all clean and different."""
    for name, value in (("train/a", 10), ("train/b", 20), ("valid/c", 30)):
        image, labels = tmp_path / "images" / f"{name}.png", tmp_path / "labels" / f"{name}.txt"
        image.parent.mkdir(parents=True, exist_ok=True)
        labels.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((50, 100, 3), value, np.uint8)).save(image)
        labels.touch()
    (tmp_path / "labels/train/a.txt").write_text("0 .5 .5 .2 .4\n1 .5 .5 1 1\n1 .5 .5 .4 .8\n")
    (tmp_path / "set.data").write_text("classes=2\ntrain=images/train\nvalid=images/valid\n")
    return tmp_path


def rows(out: str) -> dict[str, list[str]]:
    """The table: title -> cells."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    return {row[0]: row[1:] for row in cells}


def test_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(folder / "set.data")])
    table = rows(capsys.readouterr().out)
    assert table["images"] == ["2", "1"] and table["without boxes"] == ["1", "1"] and table["boxes"] == ["3", "0"]
    assert table["class 0 class_0"] == ["1", "0"] and table["class 1 class_1"] == ["2", "0"]
    # 20x20, 40x40 and 100x50 pixels
    assert (table["small"], table["medium"], table["large"]) == (["1", "0"], ["2", "0"], ["0", "0"])
    assert table["box width, px"] == ["40, 22 - 94", "-"] and table["box height, px"] == ["40, 22 - 49", "-"]


def test_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "labels/train/b.txt").write_text("0 .5 .5 .2 .4\n" + "9 .5 .5 .2 .4\n" * 15)
    (folder / "images/train/copy.png").write_bytes((folder / "images/valid/c.png").read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8)
    Image.fromarray(noise).save(folder / "images/valid/half.jpg")
    content = (folder / "images/valid/half.jpg").read_bytes()
    (folder / "images/valid/half.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit) as caught:
        main([str(folder / "set.data")])
    assert caught.value.code == 1
    captured = capsys.readouterr()
    for line in range(2, 17):
        assert f"b.txt:{line}: class out of range: expected 0..1, got 9" in captured.err, "all are printed"
    assert "half.jpg: unreadable image: not an image, or a damaged one" in captured.err
    assert "c.png: image in train and valid: the same content as" in captured.err
    assert "17 problems in the data: class out of range (15)" in captured.err
    assert rows(captured.out)["images"] == ["3", "1"]


def test_remarks_are_no_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "labels/train/b.txt").write_text("0 .1 .1 .5 .1 .5 .9 .3 .9\n1 .5 .5 1.001 1 .8\n")
    main([str(folder / "set.data")])
    captured = capsys.readouterr()
    assert "1 label line with an oriented box" in captured.err and "1 label line with a sixth column" in captured.err
    assert "in the data" not in captured.err and rows(captured.out)["boxes"] == ["5", "0"]


def test_label_files_that_are_odd(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images/train/a.jpg").write_bytes((folder / "images/train/a.png").read_bytes())
    (folder / "images/train/more").mkdir()
    (folder / "images/train/more/d.png").write_bytes((folder / "images/train/b.png").read_bytes())
    with pytest.raises(SystemExit):
        main([str(folder / "set.data")])
    said = capsys.readouterr().err
    assert "a.png: two images with one label file: " in said
    assert f"{folder}/images/train/more: no label file for any image of a folder: looked for" in said


def test_same_list_twice_is_a_remark(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "set.data").write_text("classes=2\ntrain=images/train\nvalid=images/train\n")
    main([str(folder / "set.data")])
    captured = capsys.readouterr()
    assert "valid is the same list as train" in captured.out and rows(captured.out)["images"] == ["2"]


def test_no_data_at_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(folder / "gone.data")])
    assert caught.value.code == 2
    assert "gone.data: no such file" in capsys.readouterr().err
