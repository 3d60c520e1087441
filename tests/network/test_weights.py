"""Weights in and out: Darknet's stream and checkpoints."""

import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models import Darknet, load_model, load_weights, save_weights
from tests.conftest import randomise
from utils.errors import WeightsError
from utils.network.graph import fit_heads, load_graph, parse_graph
from utils.network.weights import read_weights

TEXT = """[net]
width=32
height=32
[convolutional]
filters=4
size=3
stride=2
pad=1
batch_normalize=1
activation=leaky
[ghost]
filters=6
ratio=3
batch_normalize=1
activation=leaky
[convolutional]
filters=7
activation=linear
[yolo]
anchors=4,4
classes=2
"""
FLOATS = (4 * 4 + 4 * 3 * 9) + (2 * 4 + 2 * 4) + (4 * 4 + 4 * 9) + (7 + 7 * 6)


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    path = tmp_path / "x.cfg"
    path.write_text(TEXT)
    return path


def make(cfg: Path, seed: int = 0) -> Darknet:
    model = load_model(cfg)
    randomise(model, seed)
    return model


def test_stream_is_laid_out_as_in_darknet(cfg: Path, tmp_path: Path) -> None:
    model = make(cfg)
    model.seen = 2**33 + 5
    save_weights(model, tmp_path / "x.weights")
    data = (tmp_path / "x.weights").read_bytes()
    assert struct.unpack("<3iQ", data[:20]) == (0, 2, 5, 2**33 + 5)
    values = np.frombuffer(data, "<f4", offset=20)
    assert values.size == FLOATS
    conv, bn = model.blocks[0].unit[0], model.blocks[0].unit[1]
    parts = [bn.bias, bn.weight, bn.running_mean, bn.running_var, conv.weight.flatten()]
    np.testing.assert_array_equal(values[: 4 * 4 + 108], torch.cat(parts).detach().numpy())
    head = model.blocks[2].unit[0]
    np.testing.assert_array_equal(values[-49:], torch.cat((head.bias, head.weight.flatten())).detach().numpy())


def test_real_file_round_trip_is_bit_exact(shared: Path, tmp_path: Path) -> None:
    folder = shared / "models" / "yolo-fastest-1.1"
    model = load_model(folder / "yolo-fastest-1.1.cfg", folder / "yolo-fastest-1.1.weights")
    assert model.names[:2] == ["person", "bicycle"] and len(model.names) == 80
    save_weights(model, tmp_path / "a.pt")
    save_weights(load_model(None, tmp_path / "a.pt"), tmp_path / "b.weights")
    original = read_weights(folder / "yolo-fastest-1.1.weights")
    again = read_weights(tmp_path / "b.weights")
    assert again.seen == original.seen
    assert again.values.tobytes() == original.values.tobytes()


def test_old_header_has_a_32_bit_seen(cfg: Path, tmp_path: Path) -> None:
    values = np.arange(FLOATS, dtype="<f4")
    (tmp_path / "old.weights").write_bytes(struct.pack("<3iI", 0, 1, 0, 77) + values.tobytes())
    assert load_model(cfg, tmp_path / "old.weights").seen == 77


@pytest.mark.parametrize(("change", "found"), [(-1, FLOATS - 1), (1, FLOATS + 1), (-FLOATS, 0)])
def test_wrong_length_gives_both_counts(cfg: Path, tmp_path: Path, change: int, found: int) -> None:
    file = tmp_path / "x.weights"
    file.write_bytes(struct.pack("<3iQ", 0, 2, 5, 0) + bytes(4 * (FLOATS + change)))
    with pytest.raises(WeightsError, match=f"expected {FLOATS} floats for the whole network, found {found}"):
        load_model(cfg, file)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xd8\xff\xe0" + bytes(100), bytes(20) + b"abc"])
def test_foreign_files_are_refused(cfg: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.weights").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.weights: (expected|truncated)"):
        load_model(cfg, tmp_path / "x.weights")


def test_values_that_are_no_numbers_are_refused(cfg: Path, tmp_path: Path) -> None:
    values = np.zeros(FLOATS, "<f4")
    values[7] = np.nan
    (tmp_path / "x.weights").write_bytes(struct.pack("<3iQ", 0, 2, 5, 0) + values.tobytes())
    with pytest.raises(WeightsError, match="1 values are not finite numbers"):
        load_model(cfg, tmp_path / "x.weights")


def test_cutoff_takes_the_first_layers_only(cfg: Path, tmp_path: Path) -> None:
    whole = make(cfg)
    save_weights(whole, tmp_path / "x.weights")
    first = 4 * 4 + 4 * 3 * 9
    (tmp_path / "x.conv.1").write_bytes((tmp_path / "x.weights").read_bytes()[: 20 + 4 * first])
    with pytest.raises(WeightsError, match="exactly layers 0 to 0: a backbone file, load it with --cutoff 1"):
        load_model(cfg, tmp_path / "x.conv.1")
    for name in ("x.conv.1", "x.weights"):
        model = make(cfg, seed=1)
        before = model.blocks[2].unit[0].weight.clone()
        assert "layers 0 to 0" in load_weights(model, tmp_path / name, cutoff=1)
        assert torch.equal(model.blocks[0].unit[0].weight, whole.blocks[0].unit[0].weight)
        assert torch.equal(model.blocks[2].unit[0].weight, before)


def test_nothing_changes_when_loading_fails(cfg: Path, tmp_path: Path) -> None:
    model = make(cfg)
    save_weights(model, tmp_path / "x.pt")
    other = Darknet(fit_heads(model.graph, 3))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(WeightsError, match=r"expected shape \(8,\), got \(7,\)"):
        load_weights(other, tmp_path / "x.pt")
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize("name", ["x.pt", "x.weights"])
def test_another_class_count_loads_all_but_the_heads_when_asked(cfg: Path, tmp_path: Path, name: str) -> None:
    model = make(cfg)
    save_weights(model, tmp_path / name)
    other = Darknet(fit_heads(model.graph, 3))
    head = other.blocks[2].unit[0].weight.clone()
    said = load_weights(other, tmp_path / name, other_classes=2)
    assert "all but the heads (2 classes there)" in said
    for key, tensor in other.state_dict().items():
        if not key.startswith("blocks.2."):
            assert torch.equal(tensor, model.state_dict()[key]), key
    assert torch.equal(other.blocks[2].unit[0].weight, head)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never be printed",)


def test_pickled_objects_are_refused_and_not_run(cfg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Evil()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(WeightsError, match=rf"{name}: refused: it holds pickled objects"):
            load_model(cfg, tmp_path / name)
    assert "never" not in capsys.readouterr().out


def test_damaged_and_foreign_checkpoints_are_refused(cfg: Path, tmp_path: Path) -> None:
    save_weights(make(cfg), tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:500])
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    torch.save({"format": 1, "cfg": 7, "names": [], "model": {}, "seen": 0}, tmp_path / "odd.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    flipped = bytearray((tmp_path / "good.pt").read_bytes())
    place = flipped.find(load_model(cfg, tmp_path / "good.pt").blocks[0].unit[0].weight.detach().numpy().tobytes())
    flipped[place + 5] ^= 0xFF
    (tmp_path / "flipped.pt").write_bytes(bytes(flipped))
    for name, message in (
        ("cut.pt", "cut.pt: damaged"),
        ("other.pt", "expected a checkpoint"),
        ("odd.pt", "expected a checkpoint"),
        ("flipped.pt", "flipped.pt: damaged"),
        ("empty.pt", "empty.pt: damaged"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_model(cfg, tmp_path / name)


def test_names_come_from_where_they_should(cfg: Path, tmp_path: Path) -> None:
    assert load_model(cfg).names == ["class_0", "class_1"]
    (tmp_path / "x.names").write_text("cat\ndog\n")
    assert load_model(cfg).names == ["cat", "dog"]
    assert load_model(cfg, names=["a", "b"]).names == ["a", "b"]
    model = load_model(cfg, names=["c", "d"])
    save_weights(model, tmp_path / "x.pt")
    assert load_model(cfg, tmp_path / "x.pt").names == ["c", "d"]
    (tmp_path / "y.names").write_text("e\nf\n")  # no longer the only one
    assert load_model(cfg).names == ["class_0", "class_1"]
    assert load_model("yolov3-tiny.cfg").names[79] == "toothbrush"
    with pytest.raises(ValueError, match="class names: expected 2, the network's class count, got 1"):
        load_model(cfg, names=["a"])


def test_writing_is_whole_or_absent(cfg: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a name that ends in"):
        save_weights(make(cfg), tmp_path / "x.bin")
    save_weights(make(cfg), tmp_path / "new" / "x.weights")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x.weights"]


def test_expanded_ghost_blocks_have_the_same_stream() -> None:
    graph = load_graph("ghost-yolov3.cfg")
    from utils.network.expand import expand

    expanded = expand(graph, Darknet(graph).blocks)
    sizes = [sum(t.numel() for b in Darknet(g).blocks for t in b.darknet_tensors()) for g in (graph, expanded)]
    assert sizes[0] == sizes[1]
    assert parse_graph(expanded.to_cfg()) == expanded
