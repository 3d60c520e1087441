"""Random networks for the laws that hold of all of them, as cfg text."""

from hypothesis import strategies as st

ACTIVATIONS = ("leaky", "linear", "mish", "swish", "relu", "logistic")
SIZE = 32


@st.composite
def cfgs(draw: st.DrawFn, longest: int = 12) -> str:
    """A cfg of up to so many random sections, every one of which fits the one before, and a head."""
    lines = [f"[net]\nwidth={SIZE}\nheight={SIZE}\n"]
    maps: list[tuple[int, int]] = []  # channels and side of each layer

    def add(kind: str, channels: int, side: int, **options: object) -> None:
        keys = "".join(f"{key.rstrip('_')}={value}\n" for key, value in options.items())
        lines.append(f"[{kind}]\n{keys}")
        maps.append((channels, side))

    def conv(channels: int, side: int, size: int = 3, stride: int = 1, **more: object) -> None:
        act, bn = draw(st.sampled_from(ACTIVATIONS)), draw(st.sampled_from((1, 1, 1, 0)))
        keys = {"filters": channels, "size": size, "stride": stride, "pad": 1, "batch_normalize": bn, "activation": act}
        add("convolutional", channels, side // stride, **keys, **more)

    def like(side: int) -> int | None:
        """A layer before the last with that side, or None."""
        places = [place for place, (_, other) in enumerate(maps[:-1]) if other == side]
        return draw(st.sampled_from(places)) if places else None

    conv(draw(st.sampled_from((8, 12))), SIZE)
    kinds = """conv depthwise grouped ghost bottleneck shortcut shortcuts route slices half sam excite se maxpool spp
        upsample reorg3d batchnorm activation dropout local""".split()
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=2, max_size=longest)):
        channels, side = maps[-1]
        width = draw(st.sampled_from((4, 8, 12, 16)))
        stride = draw(st.sampled_from((1, 1, 2))) if side > 4 else 1
        other = like(side)
        act = draw(st.sampled_from(ACTIVATIONS))
        if kind == "conv":
            conv(width, side, draw(st.sampled_from((1, 3))), stride)
        elif kind == "depthwise":
            conv(channels * draw(st.sampled_from((1, 2))), side, 3, stride, groups=channels)
        elif kind == "grouped" and channels % 2 == 0:
            conv(width, side, 3, stride, groups=2)
        elif kind == "ghost":
            ratio, version = draw(st.sampled_from((2, 3))), draw(st.sampled_from((1, 2)))
            keys = {"size": 3, "stride": stride, "pad": 1, "ratio": ratio, "version": version, "activation": act}
            add("ghost", width * ratio, side // stride, filters=width * ratio, batch_normalize=1, **keys)
        elif kind == "bottleneck":
            out = draw(st.sampled_from((width, channels))) if channels % 2 == 0 else width
            more = {"se": draw(st.sampled_from((0, 4))), "version": draw(st.sampled_from((1, 2)))}
            add("ghost_bottleneck", out, side // stride, filters=out, expansion=2 * width, stride=stride, **more)
        elif kind in {"shortcut", "shortcuts"} and other is not None:
            more = {"from_": other - len(maps), "activation": act}
            if kind == "shortcuts":
                more |= {"from_": f"{other - len(maps)},{like(side) - len(maps)}"}
                more |= {"weights_type": draw(st.sampled_from(("per_feature", "per_channel")))}
                more |= {"weights_normalization": draw(st.sampled_from(("relu", "softmax")))}
            add("shortcut", channels, side, **more)
        elif kind == "route" and other is not None:
            add("route", channels + maps[other][0], side, layers=f"-1,{other - len(maps)}")
        elif kind == "slices" and channels % 2 == 0:
            add("route", channels // 2, side, layers=-1, groups=2, group_id=draw(st.sampled_from((0, 1))))
        elif kind == "half" and channels > 1:  # two ways that are joined again
            conv(width, side, 1)
            add("route", channels, side, layers=-2)
            conv(width, side, 3)
            add("route", 2 * width, side, layers="-1,-3")
        elif kind == "sam":
            conv(channels, side, 1)
            add("sam", channels, side, from_=-2)
        elif kind == "excite":
            add("avgpool", channels, 1)
            conv(4, 1, 1)
            conv(channels, 1, 1)
            add("scale_channels", channels, side, from_=-4)
        elif kind == "se":
            add("se", channels, side, squeezed=4)
        elif kind == "maxpool":
            add("maxpool", channels, side // stride, size=2, stride=stride)
        elif kind == "spp":
            for number, size in enumerate((5, 9)):
                add("maxpool", channels, side, size=size, stride=1)
                add("route", channels * (number + 2 if number else 1), side, layers="-1,-3,-4" if number else "-2")
        elif kind == "upsample" and side < SIZE:
            add("upsample", channels, 2 * side, stride=2)
        elif kind == "reorg3d" and side > 4 and channels <= 24:
            add("reorg3d", 4 * channels, side // 2, stride=2)
        elif kind == "batchnorm":
            add("batchnorm", channels, side)
        elif kind == "activation":
            add("activation", channels, side, activation=act)
        elif kind == "dropout":
            add("dropout", channels, side, probability=0.1)
        elif kind == "local":
            add("local_avgpool", channels, side, size=3, stride=1)
    add("convolutional", 16, maps[-1][1], filters=16, size=1, stride=1, pad=1, activation="linear")
    lines.append("[yolo]\nanchors=4,4,8,8\nnum=2\nclasses=3\n")
    return "\n".join(lines)
