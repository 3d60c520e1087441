"""Every registered block: shape, gradient, weight stream; and closed forms where no other implementation is right."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import Darknet, load_model, save_weights
from tests.conftest import randomise
from utils.errors import CfgError
from utils.network.graph import parse_graph
from utils.network.registry import ACTIVATIONS, KINDS
from utils.network.weights import load_darknet

KIND_NAMES = sorted({kind.name for kind in KINDS.values()})

# values by key, so that a new kind with customary keys is tested without a line here
VALUES = {
    "filters": "8", "size": "3", "pad": "1", "batch_normalize": "1", "activation": "leaky", "layers": "-1,-2",
    "from": "-2", "anchors": "4,4,8,8", "num": "2", "classes": "3", "probability": ".3", "expansion": "12", "se": "4",
    "squeezed": "4",
}  # fmt: skip
BEFORE = {"scale_channels": "[avgpool]\n", "yolo": "[convolutional]\nfilters=16\n"}
AFTER = {"avgpool": "[scale_channels]\nfrom=-2\n"}  # back to a map, for the head
HEAD = "[convolutional]\nfilters=16\n[yolo]\nanchors=4,4,8,8\nnum=2\nclasses=3\n"


KIND_NAMES += [f"{name} version=2" for name in KIND_NAMES if "version" in KINDS[name].options.__dataclass_fields__]


def section(kind: str) -> str:
    kind, _, more = kind.partition(" ")
    keys = [field.name.rstrip("_") for field in KINDS[kind].options.__dataclass_fields__.values()]
    lines = [f"{key}={VALUES[key]}" for key in keys if key in VALUES] + more.split()
    return BEFORE.get(kind, "") + "\n".join([f"[{kind}]", *lines]) + "\n" + AFTER.get(kind, "")


def network(*sections: str, size: int = 16) -> Darknet:
    """A network of these sections over two convolutions of 8 channels, ending in a head (unless it has one)."""
    stem = "[convolutional]\nfilters=8\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n" * 2
    body = "".join(sections)
    text = f"[net]\nwidth={size}\nheight={size}\n{stem}{body}" + ("" if "[yolo]" in body else HEAD)
    model = Darknet(parse_graph(text)).eval()
    randomise(model)
    return model


def block_of(kind: str, text: str, channels: tuple[int, ...]) -> torch.nn.Module:
    """A single block from its section."""
    before = "[convolutional]\n" * 9
    node = parse_graph(f"[net]\n{before}[{kind}]\n{text}").nodes[-1]
    return KINDS[kind].build(node.options, channels).eval()


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_shape_and_gradient(kind: str) -> None:
    model = network(section(kind))
    images = torch.rand(2, 3, 16, 16)
    model.train()
    heads = model(images)
    for head, stride in zip(heads, model.strides, strict=True):
        assert head.shape == (2, 2, 16 // stride, 16 // stride, 8)
    sum(head.square().sum() for head in heads).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_out_channels_and_stride_are_what_comes_out(kind: str) -> None:
    model = network(section(kind))
    shapes: dict[int, torch.Size] = {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _m, _i, out, index=index: shapes.__setitem__(index, out.shape))
    model(torch.rand(1, 3, 16, 16))
    for index, block in enumerate(model.blocks):
        if model.graph.nodes[index].kind != "yolo":
            assert shapes[index][1] == block.out_channels


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_weight_stream_round_trip_is_exact(kind: str, tmp_path: Path) -> None:
    model = network(section(kind))
    save_weights(model, tmp_path / "x.weights")
    other = Darknet(model.graph).eval()
    load_darknet(list(other.blocks), tmp_path / "x.weights")
    save_weights(other, tmp_path / "y.weights")
    assert (tmp_path / "x.weights").read_bytes() == (tmp_path / "y.weights").read_bytes()
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(model(images), other(images))


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_state_dict_round_trip_is_exact(kind: str) -> None:
    model = network(section(kind))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = Darknet(model.graph).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(model(images), other(images))


# ---- Closed forms --------------------------------------------------------------------------------------------------


def naive_conv(x: np.ndarray, weight: np.ndarray, stride: tuple[int, int], pad: int, dilation: int) -> np.ndarray:
    """(C, H, W) by the definition, in float64."""
    size = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    extent = dilation * (size - 1) + 1
    rows = (padded.shape[1] - extent) // stride[0] + 1
    columns = (padded.shape[2] - extent) // stride[1] + 1
    out = np.zeros((len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride[0], j * stride[1]
            window = padded[:, top : top + extent : dilation, left : left + extent : dilation]
            out[:, i, j] = (weight * window).sum(axis=(1, 2, 3))
    return out


@pytest.mark.parametrize(
    ("text", "stride", "pad", "dilation"),
    [
        ("size=3\npad=1\ndilation=2\n", (1, 1), 2, 2),  # effective padding = size/2 * dilation
        ("size=3\npadding=2\ndilation=3\n", (1, 1), 6, 3),
        ("size=1\ndilation=4\n", (1, 1), 0, 1),  # size 1 forces dilation 1
        ("size=3\npad=1\nstride_x=2\nstride_y=1\n", (1, 2), 1, 1),
        ("size=5\npad=1\npadding=7\nstride=2\n", (2, 2), 2, 1),  # pad overrides padding
        ("size=3\n", (1, 1), 0, 1),
    ],
)
def test_convolution_geometry(text: str, stride: tuple[int, int], pad: int, dilation: int) -> None:
    block = block_of("convolutional", f"filters=4\nactivation=linear\n{text}", (3,))
    conv = block.unit[0]
    x = torch.randn(1, 3, 11, 9)
    expected = naive_conv(x[0].double().numpy(), conv.weight.detach().double().numpy(), stride, pad, dilation)
    expected += conv.bias.detach().double().numpy()[:, None, None]
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, atol=1e-5)


def test_convolution_defaults_to_logistic_and_darknets_bn_epsilon() -> None:
    block = block_of("convolutional", "filters=2\nbatch_normalize=1\n", (1,))
    bn = block.unit[1]
    bn.running_var.fill_(1e-5)
    x = torch.randn(1, 1, 2, 2) * 1e-2
    expected = torch.sigmoid(F.conv2d(x, block.unit[0].weight) / (2e-5) ** 0.5)
    torch.testing.assert_close(block(x), expected)


CLOSED_FORMS = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "swish": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation(name: str) -> None:
    x = torch.linspace(-8, 8, 33).view(1, 1, 1, 33)
    got = block_of("activation", f"activation={name}\n", (1,))(x)
    np.testing.assert_allclose(got.numpy(), CLOSED_FORMS[name](x.double().numpy()), atol=1e-5)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("length", [7, 12, 13])
def test_pools(average: bool, size: int, stride: int, padding: int | None, length: int) -> None:
    """Darknet's loops: out = (w + padding - size)/stride + 1, window from -(padding/2), cells outside do not count."""
    text = f"size={size}\nstride={stride}\n" + ("" if padding is None else f"padding={padding}\n")
    padding = size - 1 if padding is None else padding
    if padding > 2 * size - 2:
        with pytest.raises(CfgError, match="expected at most"):
            block_of("maxpool", text, (2,))
        return
    block = block_of("local_avgpool" if average else "maxpool", text, (2,))
    x = -torch.rand(1, 2, length, length) - 1  # negative: zero padding would show
    out = (length + padding - size) // stride + 1
    expected = np.zeros((2, out, out))
    for i in range(out):
        for j in range(out):
            top, left = i * stride - padding // 2, j * stride - padding // 2
            window = x[0, :, max(top, 0) : top + size, max(left, 0) : left + size].numpy()
            expected[:, i, j] = window.mean(axis=(1, 2)) if average else window.max(axis=(1, 2))
    np.testing.assert_allclose(block(x)[0].numpy(), expected, rtol=1e-6)


def test_upsample_scale() -> None:
    x = torch.randn(1, 2, 3, 3)
    got = block_of("upsample", "stride=3\nscale=.5\n", (2,))(x)
    np.testing.assert_array_equal(got.numpy(), 0.5 * x.numpy().repeat(3, axis=2).repeat(3, axis=3))


def test_reorg3d_is_block_major() -> None:
    x = torch.randn(1, 3, 4, 6)
    got = block_of("reorg3d", "stride=2\n", (3,))(x)
    assert got.shape == (1, 12, 2, 3)
    for dy in range(2):
        for dx in range(2):
            for c in range(3):
                assert torch.equal(got[0, (dy * 2 + dx) * 3 + c], x[0, c, dy::2, dx::2])
    assert not torch.equal(got, F.pixel_unshuffle(x, 2))


def test_route_slices_each_input() -> None:
    a, b = torch.randn(1, 4, 2, 2), torch.randn(1, 8, 2, 2)
    got = block_of("route", "layers=-1,-2\ngroups=4\ngroup_id=2\n", (4, 8))(a, b)
    assert torch.equal(got, torch.cat((a[:, 2:3], b[:, 4:6]), dim=1))


def test_shortcut_adds_the_first_channels_of_each() -> None:
    a, b, c = torch.randn(1, 4, 2, 2), torch.randn(1, 2, 2, 2), torch.randn(1, 6, 2, 2)
    got = block_of("shortcut", "from=-2,-3\nactivation=leaky\n", (4, 2, 6))(a, b, c)
    expected = a.clone()
    expected[:, :2] += b
    expected += c[:, :4]
    torch.testing.assert_close(got, F.leaky_relu(expected, 0.1))


@pytest.mark.parametrize("weights_type", ["per_feature", "per_layer", "per_channel"])
@pytest.mark.parametrize("normalization", ["relu", "avg_relu", "softmax"])
def test_weighted_shortcut(weights_type: str, normalization: str) -> None:
    text = f"from=-2,-3\nweights_type={weights_type}\nweights_normalization={normalization}\n"
    block = block_of("shortcut", text, (4, 2, 6))
    weights = torch.randn(block.weights.shape)
    weights[0] = -1.0  # relu: max(w, .001)
    block.weights.data.copy_(weights)
    inputs = [torch.randn(1, channels, 2, 2) for channels in (4, 2, 6)]
    expected = np.zeros((4, 2, 2))
    for channel in range(4):
        column = weights[:, channel if weights_type == "per_channel" else 0].double().numpy()
        raised = np.exp(column - column.max()) if normalization == "softmax" else np.maximum(column, 0.001)
        factors = raised / (raised.sum() + 1e-4)
        for x, factor in zip(inputs, factors, strict=True):
            if channel < x.shape[1]:
                expected[channel] += factor * x[0, channel].double().numpy()
    np.testing.assert_allclose(block(*inputs)[0].detach().numpy(), expected, atol=1e-6)


def test_weighted_shortcut_is_in_the_stream(tmp_path: Path) -> None:
    text = "[shortcut]\nfrom=-2\nweights_type=per_channel\nweights_normalization=softmax\n"
    model, plain = network(text), network("[shortcut]\nfrom=-2\n")
    save_weights(model, tmp_path / "a.weights")
    save_weights(plain, tmp_path / "b.weights")
    sizes = [(tmp_path / name).stat().st_size for name in ("a.weights", "b.weights")]
    assert sizes[0] - sizes[1] == 4 * 2 * 8


def test_batchnorm_section() -> None:
    model = network("[batchnorm]\n")
    bn = model.blocks[2].module
    x = torch.randn(1, 8, 2, 2)
    expected = (x - bn.running_mean.view(1, -1, 1, 1)) / (bn.running_var.view(1, -1, 1, 1) + 1e-5).sqrt()
    expected = expected * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(model.blocks[2](x), expected)


def test_scale_channels_and_sam() -> None:
    scale, target = torch.rand(1, 3, 1, 1), torch.randn(1, 3, 4, 4)
    assert torch.equal(block_of("scale_channels", "from=-2\n", (3, 3))(scale, target), scale * target)
    plane = torch.rand(1, 1, 4, 4)
    got = block_of("scale_channels", "from=-2\nscale_wh=1\nactivation=relu\n", (1, 3))(plane, target)
    assert torch.equal(got, F.relu(plane * target))
    other = torch.randn(1, 3, 4, 4)
    assert torch.equal(block_of("sam", "from=-2\nactivation=relu\n", (3, 3))(other, target), F.relu(other * target))


def test_dropout_is_identity_at_inference_only() -> None:
    block = block_of("dropout", "probability=.5\n", (1,))
    x = torch.ones(1, 1, 50, 50)
    assert torch.equal(block(x), x)
    assert not torch.equal(block.train()(x), x)


def test_share_index_uses_the_other_layers_weights(tmp_path: Path) -> None:
    shared = "[convolutional]\nfilters=8\nsize=3\npad=1\nstride=2\nbatch_normalize=1\nactivation=leaky\nshare_index=1\n"
    model, single = network(shared), network()
    first, second = model.blocks[1].unit, model.blocks[2].unit
    assert second[0].weight is first[0].weight and second[1] is first[1]
    save_weights(model, tmp_path / "a.weights")
    save_weights(single, tmp_path / "b.weights")
    assert (tmp_path / "a.weights").stat().st_size == (tmp_path / "b.weights").stat().st_size
    x = torch.randn(1, 8, 8, 8)
    expected = F.leaky_relu(first[1](F.conv2d(x, first[0].weight, stride=2, padding=1)), 0.1)
    torch.testing.assert_close(model.blocks[2](x), expected)


def test_contradictions_name_the_line() -> None:
    for body, message in (
        ("[convolutional]\nfilters=8\ngroups=3\n", "cfg:16: \\[convolutional\\] groups=3: expected a divisor"),
        (
            "[maxpool]\nstride=2\n[route]\nlayers=-1,-2\n",
            "cfg:18: \\[route\\] its inputs have different sizes: stride 2, ",
        ),
        ("[convolutional]\n[sam]\nfrom=0\n", "cfg:17: \\[sam\\] the layer `from`: expected 1 channels, got 8"),
        (HEAD + "[shortcut]\nfrom=0\n", "\\[shortcut\\] reads a \\[yolo\\] head, which has no feature map"),
        ("[scale_channels]\nfrom=0\n", "the previous layer: expected a single cell"),
        ("[convolutional]\nfilters=9\nshare_index=0\n", "share_index: expected a layer with weights"),
        (
            "[convolutional]\nfilters=17\n[yolo]\nanchors=4,4,8,8\nnum=2\nclasses=3\n",
            "cfg:18: \\[yolo\\] filters=.* in the layer before: expected 16 channels, got 17",
        ),
    ):
        with pytest.raises(CfgError, match=message):
            network(body)


@pytest.mark.parametrize(("scale_x_y", "new_coords"), [(1.0, False), (1.05, False), (2.0, False), (2.0, True)])
def test_decode_by_darknets_formula(scale_x_y: float, new_coords: bool) -> None:
    """Darknet src/yolo_layer.c, value by value; N runs over anchor, row, column."""
    text = "[net]\nwidth=32\nheight=64\n[convolutional]\nfilters=16\nsize=8\nstride=8\nactivation=linear\n"
    text += "[yolo]\nmask=1,2\n"
    text += f"anchors=1,1,10.5,13,16,30.25\nnum=3\nclasses=3\nscale_x_y={scale_x_y}\nnew_coords={int(new_coords)}\n"
    model = Darknet(parse_graph(text)).eval()
    randomise(model)
    images = torch.rand(2, 3, 64, 32)
    head = model.heads(images)[0].detach().double().numpy()  # (B, 16, 8, 4)
    got = model(images).detach().numpy()
    assert got.shape == (2, 2 * 8 * 4, 8)
    # with new_coords the layer itself applies no sigmoid
    sigmoid = (lambda v: v) if new_coords else (lambda v: 1 / (1 + np.exp(-v)))
    n = 0
    for anchor, (anchor_w, anchor_h) in enumerate([(10.5, 13), (16, 30.25)]):
        for row in range(8):
            for column in range(4):
                t = head[1, anchor * 8 : anchor * 8 + 8, row, column]
                x = (column + scale_x_y * sigmoid(t[0]) - (scale_x_y - 1) / 2) / 4 * 32
                y = (row + scale_x_y * sigmoid(t[1]) - (scale_x_y - 1) / 2) / 8 * 64
                w = (4 * t[2] ** 2 if new_coords else np.exp(t[2])) * anchor_w
                h = (4 * t[3] ** 2 if new_coords else np.exp(t[3])) * anchor_h
                np.testing.assert_allclose(got[1, n], [x, y, w, h, *sigmoid(t[4:])], rtol=1e-4, atol=1e-4)
                n += 1


def test_pools_need_no_padding_where_pytorch_has_their_rule() -> None:
    """A padding layer of its own is one more operation in every exported file."""
    for keys, alone in (
        ("size=2\nstride=2", True),
        ("size=3\nstride=2", True),
        ("size=5\nstride=1", True),
        ("size=2\nstride=1", False),
        ("size=4\nstride=2", False),
    ):
        pool = block_of("maxpool", keys, (3,))
        assert (len(list(pool.children())) == 1) == alone, keys
        for side in (7, 8):  # out = (w + padding - size) / stride + 1
            size, stride = (int(key.split("=")[1]) for key in keys.split())
            assert pool(torch.rand(1, 3, side, side)).shape[2] == (side - 1) // stride + 1, (keys, side, size)


def test_mask_is_optional() -> None:
    model = network("[convolutional]\nfilters=24\n[yolo]\nanchors=4,4,8,8,9.5,9\nnum=3\nclasses=3\n")
    assert model.yolo_layers[0].anchors.tolist() == [[4, 4], [8, 8], [9.5, 9]]


def test_any_size_divisible_by_the_largest_stride() -> None:
    model = load_model("yolov3-tiny.cfg")
    assert model.strides == [32, 16] and model.largest_stride == 32
    assert model(torch.rand(1, 3, 96, 64)).shape == (1, 3 * (3 * 2 + 6 * 4), 85)
    with pytest.raises(ValueError, match="input 80x64: expected a width and height divisible by 32"):
        model(torch.rand(1, 3, 64, 80))


def test_maps_are_freed_after_their_last_use() -> None:
    """At no time are more maps alive than the graph still needs."""
    model = load_model("yolov3-tiny.cfg")
    alive: set[int] = set()
    most = 0

    def watch(_m: object, _i: object, output: Tensor) -> None:
        nonlocal most
        key = id(output)
        alive.add(key)
        most = max(most, len(alive))
        import weakref

        weakref.finalize(output, alive.discard, key)

    for block in model.blocks:
        block.register_forward_hook(watch)
    with torch.no_grad():
        model.heads(torch.rand(1, 3, 64, 64))
    assert most <= 5  # of 24
