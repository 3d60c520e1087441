"""VOC's XML files as other programs write them: no lists, other encodings, namespaces; there and back to 1e-6."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data.datafile import load_data
from utils.data.formats import main
from utils.data.labels import Sample, load_samples

Box = tuple[str, float, float, float, float]


def annotate(image: Path, boxes: list[Box], xml: Path | None = None, size: tuple[int, int] = (100, 50)) -> None:
    """Draw an image and write its XML file, beside it unless another place is given."""
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(image)
    root = ElementTree.Element("annotation")
    for name, *edges in boxes:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = name
        bndbox = ElementTree.SubElement(element, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True):
            ElementTree.SubElement(bndbox, key).text = repr(value)
    xml = xml or image.with_suffix(".xml")
    xml.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(xml, encoding="utf-8", xml_declaration=True)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """Ten images, each with its XML file beside it; on the nth a dog whose box begins at pixel n."""
    for index in range(10):
        annotate(tmp_path / "beside" / f"{index}.jpg", [("dog", index + 1, 1, 50, 25)])
    return tmp_path / "beside"


def samples_of(data: Path, split: str = "train") -> dict[str, Sample]:
    """The samples of the project's own reader, by their path below images/<split>; there may be no problem."""
    spec = load_data(data)
    samples, problems = load_samples(getattr(spec, split), spec.num_classes, split)
    assert problems == []
    return {sample.image.relative_to(data.parent / "images" / split).as_posix(): sample for sample in samples}


def convert(source: Path, *options: str) -> Path:
    target = source.parent / "out"
    main(["voc", str(source), str(target), *options])
    return target / "out.data"


def problems_of(data: Path) -> list[str]:
    return (data.parent / "problems.txt").read_text(encoding="utf-8").splitlines()


def test_there_and_back(tmp_path: Path) -> None:
    """Boxes of whole and of fractional pixel numbers are what the XML says (from 1, the last included) to 1e-6."""
    rng = np.random.default_rng(0)
    wanted: dict[str, list[list[float]]] = {}
    for index, (width, height) in enumerate([(1999, 1013), (97, 641), (33, 3000)]):
        boxes: list[Box] = []
        wanted[f"{index}.png"] = []
        for number in range(40):
            x0, y0 = (float(rng.uniform(1, side - 1)) for side in (width, height))
            x1, y1 = float(rng.uniform(x0 + 0.1, width)), float(rng.uniform(y0 + 0.1, height))
            if number % 2:
                x0, y0, x1, y1 = round(x0), round(y0), min(round(x1) + 1, width), min(round(y1) + 1, height)
            if x0 < x1 and y0 < y1:
                label = number % 3 == 0
                boxes.append(("dog" if label else "cat", x0, y0, x1, y1))
                centre = [(x0 - 1 + x1) / 2 / width, (y0 - 1 + y1) / 2 / height]
                wanted[f"{index}.png"].append([label, *centre, (x1 - x0 + 1) / width, (y1 - y0 + 1) / height])
        annotate(tmp_path / "voc" / f"{index}.png", boxes, size=(width, height))
    data = convert(tmp_path / "voc", "--valid", "0.4")
    samples = samples_of(data) | samples_of(data, "valid")
    assert len(samples) == 3 and sum(map(len, wanted.values())) > 100
    for name, rows in wanted.items():
        np.testing.assert_allclose(samples[name].labels, rows, rtol=0, atol=1e-6)


def test_xml_beside_images_is_divided(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = convert(beside, "--valid", "0.2")
    train, valid = samples_of(data), samples_of(data, "valid")
    assert (len(train), len(valid)) == (8, 2) and sorted(train | valid) == [f"{index}.jpg" for index in range(10)]
    for name, sample in (train | valid).items():
        left = int(name[0]) / 100
        np.testing.assert_allclose(sample.labels, [[0, (left + 0.5) / 2, 0.25, 0.5 - left, 0.5]], atol=1e-6)
    assert "valid: 2 images (0 without boxes), 2 boxes, 0 problems" in capsys.readouterr().out


def test_folders_of_images_and_of_annotations(tmp_path: Path) -> None:
    """`images` and `annotations`, each with subfolders that hold files of the same names."""
    for part, name in (("a", "dog"), ("b", "cat")):
        for index in range(3):
            image = tmp_path / "set" / "images" / part / f"{index}.png"
            annotate(image, [(name, 1, 1, 9, 9)], tmp_path / "set" / "annotations" / part / f"{index}.xml")
    data = convert(tmp_path / "set", "--valid", "0.3")
    samples = samples_of(data) | samples_of(data, "valid")
    assert {name: int(sample.labels[0, 0]) for name, sample in samples.items()} == {
        f"{part}/{index}.png": part == "a" for part in "ab" for index in range(3)
    }


def test_folders_as_splits(tmp_path: Path) -> None:
    """Roboflow's, with files of the same name in each."""
    for split, count in (("train", 3), ("valid", 2)):
        for index in range(count):
            annotate(tmp_path / "set" / split / f"{index}.jpg", [("dog", 1, 1, 9, 9 + count)])
    data = convert(tmp_path / "set", "--train", "train", "--valid", "valid")
    assert [len(samples_of(data, split)) for split in ("train", "valid")] == [3, 2]
    assert samples_of(data, "valid")["0.jpg"].labels[0, 4] == pytest.approx(11 / 50)


def test_a_list_is_divided(tmp_path: Path) -> None:
    for index in range(4):
        annotate(
            tmp_path / f"voc/JPEGImages/{index}.jpg", [("dog", 1, 1, 9, 9)], tmp_path / f"voc/Annotations/{index}.xml"
        )
    (tmp_path / "voc/ImageSets/Main").mkdir(parents=True)
    (tmp_path / "voc/ImageSets/Main/default.txt").write_text("0\n1\n2\n")
    data = convert(tmp_path / "voc", "--train", "default", "--valid", "0.34")
    assert sorted(samples_of(data) | samples_of(data, "valid")) == ["0.jpg", "1.jpg", "2.jpg"]


def test_files_without_their_fellow_are_told(beside: Path) -> None:
    annotate(beside / "a" / "twin.jpg", [], xml=beside / "twin.xml")
    annotate(beside / "b" / "twin.jpg", [], xml=beside / "lonely.xml")
    Image.new("RGB", (9, 9)).save(beside / "bare.png")
    (beside / ".hidden.xml").write_text("no XML")
    problems = problems_of(convert(beside, "--valid", "0.2"))
    assert [problem.partition(": ")[0] for problem in problems] == [
        str(beside / name) for name in ("lonely.xml", "twin.xml", "a/twin.jpg", "b/twin.jpg", "bare.png")
    ]
    for problem, kind in zip(problems, ("missing image", "several images", *["missing annotation"] * 3), strict=True):
        assert f": {kind}: " in problem


def test_how_to_divide_is_told(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        ((), "trainval.txt: no such list; expected a split with a list in"),
        ((), "which has: none: with --valid 0.2 all images are found and divided"),
        (("--valid", "1.5"), "trainval.txt: no such list"),
        (("--train", "../x"), "expected a file name within the folder"),
    ):
        with pytest.raises(SystemExit) as caught:
            convert(beside, *options)
        assert caught.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]
    for index in range(1, 10):
        (beside / f"{index}.jpg").unlink()
    with pytest.raises(SystemExit):
        convert(beside, "--valid", "0.2")
    assert "--valid 0.2: expected images enough for two parts, got 1 image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("gb2312", "\u732b"),
        ("gbk", "\u9577\u732b"),
        ("gb18030", "\u732b\U00020000"),
        ("big5", "\u8c93"),
        ("shift_jis", "\u306d\u3053"),
        ("EUC-JP", "\u306d\u3053"),
        ("euc-kr", "\uace0\uc591\uc774"),
        ("windows-1251", "\u043a\u043e\u0442"),
        ("iso-8859-1", "\u00dcbergr\u00f6\u00dfe"),
        ("utf-8", "\u00fc\u732b"),
        ("utf-8-sig", "\u732b"),
        ("utf-16", "\u732b"),
        ("utf-16-le", "\u732b"),
    ],
)
def test_encodings(beside: Path, encoding: str, name: str) -> None:
    file = beside / "3.xml"
    text = file.read_text(encoding="utf-8").partition("?>")[2].replace("dog", name)
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    file.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>{text}'.encode(encoding))
    data = convert(beside, "--valid", "0.2")
    assert load_data(data).names == ("dog", name) and not (data.parent / "problems.txt").exists()


@pytest.mark.parametrize(
    "encoding", ["no-such", "utf-7", "idna", "punycode", "unicode_escape", "base64", "a\0b", "utf-16", ""]
)
def test_encodings_that_are_none(beside: Path, encoding: str) -> None:
    """A problem of that file alone."""
    file = beside / "3.xml"
    text = file.read_text(encoding="utf-8").partition("?>")[2]
    file.write_text(f'<?xml version="1.0" encoding="{encoding}"?>{text}')
    data = convert(beside, "--valid", "0.2")
    (problem,) = problems_of(data)
    assert problem.startswith(f"{file}: ") and ("unknown encoding: " in problem or "not valid XML: " in problem)
    assert len(samples_of(data)) + len(samples_of(data, "valid")) == 9


def test_text_that_is_not_in_its_encoding(beside: Path) -> None:
    (beside / "3.xml").write_bytes(b'<?xml version="1.0" encoding="gb2312"?><annotation>\xff\xff</annotation>')
    assert "3.xml: not valid XML: expected text in 'gb2312'" in problems_of(convert(beside, "--valid", "0.2"))[0]


def test_a_mark_counts_more_than_a_name(beside: Path) -> None:
    file = beside / "3.xml"
    text = file.read_text(encoding="utf-8").partition("?>")[2].replace("dog", "\u732b")
    file.write_text(f'<?xml version="1.0" encoding="no-such"?>{text}', encoding="utf-16")
    assert load_data(convert(beside, "--valid", "0.2")).names == ("dog", "\u732b")


def test_document_types_are_refused_in_every_encoding(beside: Path) -> None:
    text = '<!DOCTYPE a [<!ENTITY x "dog">]><annotation><object><name>&x;</name></object></annotation>'
    (beside / "3.xml").write_bytes(f'<?xml version="1.0" encoding="gb2312"?>{text}'.encode("gb2312"))
    assert "3.xml: unsafe XML: expected no document type" in problems_of(convert(beside, "--valid", "0.2"))[0]


@pytest.mark.parametrize(("head", "prefix"), [('xmlns="urn:x"', ""), ('xmlns:v="urn:x"', "v:")])
def test_namespaces_are_ignored(beside: Path, head: str, prefix: str) -> None:
    for file in beside.glob("*.xml"):
        text = file.read_text(encoding="utf-8").partition("?>")[2].replace("</", f"</{prefix}")
        for tag in ("object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax"):
            text = text.replace(f"<{tag}>", f"<{prefix}{tag}>")
        file.write_text(text.replace("<annotation", f"<{prefix}annotation {head}"))
    samples = samples_of(convert(beside, "--valid", "0.2"))
    assert len(samples) == 8 and all(len(sample.labels) == 1 for sample in samples.values())


def test_edges_in_the_wrong_order_are_swapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The box is that of the right order, pixel for pixel."""
    boxes: list[Box] = [("right", 11, 6, 30, 15), ("x", 30, 6, 11, 15), ("y", 11, 15, 30, 6), ("both", 30, 15, 11, 6)]
    for index in range(2):
        annotate(tmp_path / "voc" / f"{index}.jpg", boxes)
    samples = samples_of(convert(tmp_path / "voc", "--valid", "0.5"))
    (sample,) = samples.values()
    np.testing.assert_allclose(sample.labels[:, 1:], [[0.2, 0.2, 0.2, 0.2]] * 4, atol=1e-6)
    assert "train: 6 boxes with swapped edges put in order" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x7fb", "a\x85b", "a\u2028b"])
def test_names_that_fill_no_line(beside: Path, name: str) -> None:
    """One problem, and a data set that loads."""
    annotate(beside / "3.jpg", [(name, 1, 1, 9, 9), (" cat ", 1, 1, 20, 9)])
    data = convert(beside, "--valid", "0.2")
    assert problems_of(data) == [
        f"{beside / '3.xml'}: not a class name: expected text in one line, got {name!r} (object 1)"
    ]
    assert load_data(data).names == ("cat", "dog") and len(samples_of(data)) == 8


@pytest.mark.parametrize("name", ["a\nb", "a\udcffb"])
def test_file_names_that_fill_no_line(beside: Path, name: str) -> None:
    """They cannot be in a list of images; others, such as those with wide spaces, can."""
    (beside / "3.xml").rename(beside / f"{name}.xml")
    (beside / "3.jpg").rename(beside / f"{name}.jpg")
    for suffix in ("jpg", "xml"):
        (beside / f"4.{suffix}").rename(beside / f"\u732b\u3000\u00a0.{suffix}")
    data = convert(beside, "--valid", "0.2")
    assert len(problems_of(data)) == 1 and "no name of a file: expected text in one line" in problems_of(data)[0]
    samples = samples_of(data) | samples_of(data, "valid")
    assert len(samples) == 9 and "\u732b\u3000\u00a0.jpg" in samples


def test_images_that_cannot_be_read_are_told_once(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (beside / "c.heic").touch()
    (beside / "3.xml").rename(beside / "3.XML")
    data = convert(beside, "--valid", "0.2")
    assert capsys.readouterr().err.count("1 .heic file left out") == 1
    assert len(samples_of(data) | samples_of(data, "valid")) == 10 and not (data.parent / "problems.txt").exists()


def test_an_image_that_is_listed_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotate(tmp_path / "voc/JPEGImages/a.jpg", [("dog", 1, 1, 9, 9)], tmp_path / "voc/Annotations/a.xml")
    (tmp_path / "voc/ImageSets/Main").mkdir(parents=True)
    for split in ("trainval", "test"):
        (tmp_path / "voc/ImageSets/Main" / f"{split}.txt").write_text("a\na\n")
    data = convert(tmp_path / "voc")
    assert len(samples_of(data)["a.jpg"].labels) == 1
    assert "image listed twice: a.jpg" in problems_of(data)[0]
