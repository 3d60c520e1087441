"""Weights in and out: Darknet's .weights stream and this project's .pt checkpoints.

A .weights file is int32 major, minor, revision, then `seen` (uint64 from version 0.2 on, else uint32), then float32
little endian, layer by layer. Source: darknet src/parser.c: load_weights_upto, save_weights_upto.
"""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import WeightsError
from utils.files import whole_file
from utils.network.registry import Block

VERSION = (0, 2, 5)
CHECKPOINT_FORMAT = 1


# ---- Darknet's stream ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightsFile:
    """A .weights file: images seen in training, and all its floats."""

    path: Path
    seen: int
    values: np.ndarray


def read_weights(path: str | Path) -> WeightsFile:
    """Read header and floats. Raises WeightsError for what is no such file."""
    path = Path(path)
    data = path.read_bytes()
    if len(data) < 16:
        raise WeightsError(f"{path}: expected a Darknet .weights file, got {len(data)} bytes, less than a header")
    major, minor, _ = struct.unpack("<3i", data[:12])
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise WeightsError(f"{path}: expected a Darknet .weights file, got no header of one")
    wide = major * 10 + minor >= 2
    start = 20 if wide else 16
    if len(data) < start or (len(data) - start) % 4:
        raise WeightsError(
            f"{path}: truncated or no weights file: expected whole float32 values (4 bytes each) after the header, "
            f"got {len(data) - start} bytes"
        )
    seen = struct.unpack("<Q" if wide else "<I", data[12:start])[0]
    values = np.frombuffer(data, "<f4", offset=start)
    if not np.isfinite(values).all():
        raise WeightsError(f"{path}: damaged: {np.count_nonzero(~np.isfinite(values)):,} values are not finite numbers")
    return WeightsFile(path, seen, values)


def stream_sizes(blocks: Iterable[nn.Module]) -> list[int]:
    """How many floats each block has in the stream."""
    return [sum(tensor.numel() for tensor in block.darknet_tensors()) for block in blocks if isinstance(block, Block)]


def load_darknet(blocks: Sequence[nn.Module], path: str | Path, cutoff: int | None = None) -> tuple[int, int]:
    """Fill the blocks from a .weights file; returns (`seen`, number of layers filled).

    The whole file must be used and every layer filled. `cutoff` N fills layers 0 to N-1 only, as for a backbone file,
    which must then hold at least these. Raises WeightsError with both float counts; nothing is changed then.
    """
    file = read_weights(path)
    sizes = stream_sizes(blocks)
    if cutoff is not None and not 0 < cutoff <= len(sizes):
        raise WeightsError(f"cutoff {cutoff}: expected 1 to {len(sizes)}, the number of layers")
    wanted = sum(sizes[:cutoff])
    found = file.values.size
    if found < wanted or (found > wanted and cutoff is None):
        raise WeightsError(
            f"{path}: expected {wanted:,} floats for {'the whole network' if cutoff is None else f'{cutoff} layers'}, "
            f"found {found:,}{_backbone_hint(sizes, found) if cutoff is None else ''}"
        )
    position = 0
    with torch.no_grad():
        for block in list(blocks)[:cutoff]:
            assert isinstance(block, Block)
            for tensor in block.darknet_tensors():
                values = file.values[position : position + tensor.numel()]
                tensor.copy_(torch.from_numpy(values.copy()).view_as(tensor))
                position += tensor.numel()
    return file.seen, len(sizes) if cutoff is None else cutoff


def _backbone_hint(sizes: Sequence[int], found: int) -> str:
    """Names the cutoff when the file ends exactly where a layer does, as backbone files do."""
    total = 0
    for index, size in enumerate(sizes, start=1):
        total += size
        if size and total == found and index < len(sizes):
            return f"; that is exactly layers 0 to {index - 1}: a backbone file, load it with --cutoff {index}"
    return ""


def save_darknet(blocks: Iterable[nn.Module], path: str | Path, seen: int = 0) -> None:
    """Write a .weights file, version 0.2.5, whole or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<3iQ", *VERSION, seen))
        for block in blocks:
            assert isinstance(block, Block)
            for tensor in block.darknet_tensors():
                file.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())


# ---- Checkpoints ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A .pt file: the cfg it belongs to, class names, tensors by name, and images seen in training.

    `training` is there while the training is not finished: its whole state.
    """

    cfg: str
    names: tuple[str, ...]
    tensors: dict[str, Tensor]
    seen: int
    training: dict[str, Any] | None = None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a .pt that loads with `torch.load(weights_only=True)`, whole or not at all."""
    content = {
        "format": CHECKPOINT_FORMAT,
        "cfg": checkpoint.cfg,
        "names": list(checkpoint.names),
        "model": checkpoint.tensors,
        "seen": checkpoint.seen,
    }
    if checkpoint.training is not None:
        content["training"] = checkpoint.training
    buffer = io.BytesIO()  # torch, writing to a full disk, does not say so
    torch.save(content, buffer)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a .pt without running anything in it. Raises WeightsError for pickled objects and foreign content."""
    content = read_content(path)
    if not is_own(content):
        got = type(content).__name__
        if isinstance(content, dict):
            got = "the keys " + ", ".join(map(str, list(content)[:5]))
        raise WeightsError(f"{path}: expected a checkpoint written by this project, got {got}")
    training = content.get("training")
    return Checkpoint(content["cfg"], tuple(content["names"]), content["model"], content["seen"], training)


def read_content(path: str | Path, wanted: str = "a .pt written by this project, or a Darknet .weights file") -> Any:
    """What is in a PyTorch file, by anybody, without running anything in it.

    Raises WeightsError for other files, in which `wanted` was expected.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch has to say of foreign pickles is said below
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        if zipfile.is_zipfile(path):
            _check_sums(path)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: refused: it holds pickled objects (or no checkpoint at all), and loading those would run code; "
            f"expected {wanted}"
        ) from None
    except (RuntimeError, EOFError, LookupError, ValueError, AttributeError, zipfile.BadZipFile):
        raise WeightsError(f"{path}: damaged, or no PyTorch file") from None
    return content


def is_own(content: Any) -> bool:
    """Whether what a file holds is a checkpoint of this project."""
    return isinstance(content, dict) and content.get("format") == CHECKPOINT_FORMAT and _has_parts(content)


def _check_sums(path: str | Path) -> None:
    """Raise BadZipFile when a part of the archive does not have its checksum, which torch.load does not look at."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile


def _has_parts(content: dict[str, Any]) -> bool:
    """Whether a checkpoint's parts are there and of their types: the file is somebody else's."""
    names, tensors = content.get("names"), content.get("model")
    return (
        isinstance(content.get("cfg"), str)
        and isinstance(content.get("seen"), int)
        and isinstance(content.get("training"), dict | None)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(tensors, dict)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items())
    )


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], path: str | Path, skip: Iterable[str] = ()) -> int:
    """Copy tensors by name into the model; returns how many. All must be there and fit, save under `skip` prefixes.

    Raises WeightsError that names the first difference; nothing is changed then.
    """
    own = model.state_dict()
    prefixes = tuple(skip)
    wanted = {name for name in own if not name.startswith(prefixes)}
    given = {name for name in tensors if not name.startswith(prefixes)}
    for difference, words in ((wanted - given, "lacks"), (given - wanted, "has, unlike the network,")):
        if difference:
            raise WeightsError(
                f"{path}: {words} {len(difference)} tensors, such as {min(difference)}; is it from another cfg?"
            )
    for name in sorted(wanted):
        if tensors[name].shape != own[name].shape:
            raise WeightsError(
                f"{path}: {name}: expected shape {tuple(own[name].shape)}, got {tuple(tensors[name].shape)}; "
                "is it from another cfg or class count? A training run's own cfg is the model.cfg beside its weights"
            )
        if not tensors[name].isfinite().all():
            raise WeightsError(f"{path}: damaged: some values of {name} are not finite numbers")
    model.load_state_dict({**own, **{name: tensors[name] for name in wanted}})
    return len(wanted)
