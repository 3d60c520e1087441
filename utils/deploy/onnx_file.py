"""ONNX: the graph by PyTorch's own exporter, each cfg layer's map by its name, metadata inside, and NMS if wanted."""

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from utils.deploy.network import Job
from utils.errors import InputError
from utils.runtimes.runtime import METADATA, need

LARGEST_CLASS_COUNT = 300  # boxes of a class that NMS keeps
VOTING = """
          candidate = Greater(by_class, least)
          found_at = NonZero(candidate)
          voters = Transpose <perm = [1, 0]> (found_at)
          voter_image = Slice(voters, first, one, one)
          voter_place = Slice(voters, two, three, one)
          voter_at = Concat <axis = 1> (voter_image, voter_place)
          voter_box = GatherND(boxes, voter_at)
          voter_score = GatherND(by_class, voters)
          kept_rows = Unsqueeze(kept, one)
          agree = Equal(kept_rows, voters)
          agreeing = Cast <to = 1> (agree)
          itself = ReduceMin <keepdims = 0> (agreeing, two)
          image_and_class = Slice(agreeing, first, two, two)
          comparable = ReduceMin <keepdims = 0> (image_and_class, two)
          kept_box = Unsqueeze(suppressed, one)
          kept_low = Slice(kept_box, first, two, two)
          kept_high = Slice(kept_box, two, four, two)
          voter_low = Slice(voter_box, first, two, one)
          voter_high = Slice(voter_box, two, four, one)
          kept_sides = Sub(kept_high, kept_low)
          kept_area = ReduceProd <keepdims = 0> (kept_sides, two)
          voter_sides = Sub(voter_high, voter_low)
          voter_area = ReduceProd <keepdims = 0> (voter_sides, one)
          shared_low = Max(kept_low, voter_low)
          shared_high = Min(kept_high, voter_high)
          difference = Sub(shared_high, shared_low)
          shared_sides = Relu(difference)
          shared = ReduceProd <keepdims = 0> (shared_sides, two)
          areas = Add(kept_area, voter_area)
          union = Sub(areas, shared)
          limit = Mul(union, iou)
          overlaps = Greater(shared, limit)
          overlapping = Cast <to = 1> (overlaps)
          others = Mul(overlapping, comparable)
          votes = Max(others, itself)
          weights = Mul(votes, voter_score)
          total = ReduceSum <keepdims = 1> (weights, one)
          sums = MatMul(weights, voter_box)
          found = Div(sums, total)
"""
DECODING = "decode/"  # what the nodes behind the heads are called, then their kind and number
_SCOPE = re.compile(r"network\.blocks\.(\d+)")
_LAYER = re.compile(r"layer_(\d+)/")


def onnx_graph(job: Job) -> Any:
    """An onnx.ModelProto: images (B, C, H, W) -> predictions (B, N, 5+C). Raises InputError without the packages."""
    need("onnxscript", "--format onnx")
    dynamic: dict[str, Any] = {}
    if job.info.dynamic:
        dim, stride = torch.export.Dim, job.info.stride
        shape = {0: dim("batch"), 2: stride * dim("rows"), 3: stride * dim("columns")}
        dynamic = {"dynamic_shapes": (shape,)}
    example = job.example().repeat(2, 1, 1, 1) if job.info.dynamic else job.example()  # 1 would be taken for a constant
    with quiet():
        program = torch.onnx.export(
            job.module(), (example,), dynamo=True, input_names=["images"], output_names=["predictions"], verbose=False,
            **dynamic,
        )  # fmt: skip
        assert program is not None
        model = program.model_proto
    name_layers(model, job.layers)
    if job.simplify:
        slim = need("onnxslim", "--simplify")
        model = slim.slim(model)
    return model


def finish(model: Any, job: Job) -> Any:
    """The same model with what the job's info asks for: NMS (see `with_nms`), metadata; checked."""
    onnx = need("onnx", "--format onnx")
    if job.info.nms is not None:
        with_nms(model, *job.info.nms, job.info.vote)
    for key, value in ((METADATA, job.info.to_json()), ("names", str(dict(enumerate(job.info.names))))):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    model.graph.name, model.doc_string = "detector", ""
    onnx.checker.check_model(model, full_check=True)
    return model


def save_onnx(model: Any, file: Path) -> None:
    """Write it. Raises InputError for a network too large for one file."""
    if model.ByteSize() > 2**31 - 1:
        raise InputError(f"{file}: expected a network below 2 GB")
    file.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def quiet() -> Any:
    """Without what exporters say of their own inner life."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def name_layers(model: Any, count: int) -> None:
    """Call the map that layer N of the cfg makes `layer_N`, and its nodes `layer_N/...`, all others `decode/...`.

    The exporter says of each node which modules it comes from; the last one of a layer makes its map. What else it
    wrote about itself is dropped.
    """
    last: dict[int, Any] = {}
    for number, node in enumerate(model.graph.node):
        scopes = [prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"]
        found = _SCOPE.search(scopes[0]) if scopes else None
        if found is not None:
            last[int(found[1])] = node
        part = DECODING if found is None else f"layer_{found[1]}/"
        node.name = f"{part}{node.op_type}_{number}"
    outputs = {output.name for output in model.graph.output}
    new = {
        node.output[0]: f"layer_{index}"
        for index, node in last.items()
        if index < count and node.output[0] not in outputs
    }
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for holder in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                   *model.graph.initializer, model.graph, model):  # fmt: skip
        del holder.metadata_props[:]
        if hasattr(holder, "doc_string"):
            holder.doc_string = ""
    del model.graph.value_info[:]  # of names that are gone


def layer_of(node_name: str) -> int | None:
    """The cfg's layer that a node belongs to; None for the decoding."""
    found = _LAYER.match(node_name)
    return None if found is None else int(found[1])


def with_nms(model: Any, confidence: float, iou: float, vote: bool) -> None:
    """Put NMS behind the predictions, in place: `detections` (K, 7), best first, instead of them.

    Rows are image, x1, y1, x2, y2 in pixels of the input, score, class; each box has its best class, as in detect.py.
    With `vote`, box voting follows.
    """
    onnx = need("onnx", "--nms")
    parse = onnx.parser.parse_graph
    graph = parse(
        f"""
        nms (float[B, N, D] predictions) => (float[K, 7] detections)
        <int64[1] first = {{0}}, int64[1] two = {{2}}, int64[1] four = {{4}}, int64[1] five = {{5}},
         int64[1] one = {{1}}, int64[1] three = {{3}}, int64[1] last = {{9223372036854775807}},
         int64 most = {{{LARGEST_CLASS_COUNT}}}, int64 begin = {{0}}, int64 step = {{1}}, int64 axis = {{2}},
         float iou = {{{iou}}}, float least = {{{confidence}}}, float half = {{0.5}}, float zero = {{0}}>
        {{
          centres = Slice(predictions, first, two, two)
          sides = Slice(predictions, two, four, two)
          objectness = Slice(predictions, four, five, two)
          classes = Slice(predictions, five, last, two)
          halves = Mul(sides, half)
          low = Sub(centres, halves)
          high = Add(centres, halves)
          boxes = Concat <axis = 2> (low, high)
          scores = Mul(objectness, classes)
          best = ArgMax <axis = 2> (scores)
          dims = Shape(scores)
          width = Gather(dims, axis)
          numbers = Range(begin, width, step)
          is_best = Equal(best, numbers)
          only_best = Where(is_best, scores, zero)
          by_class = Transpose <perm = [0, 2, 1]> (only_best)
          kept = NonMaxSuppression(boxes, by_class, most, iou, least)
          image = Slice(kept, first, one, one)
          label = Slice(kept, one, two, one)
          place = Slice(kept, two, three, one)
          box_at = Concat <axis = 1> (image, place)
          {"suppressed" if vote else "found"} = GatherND(boxes, box_at)
          score = GatherND(by_class, kept)
          {VOTING if vote else ""}
          score_column = Unsqueeze(score, one)
          image_column = Cast <to = 1> (image)
          label_column = Cast <to = 1> (label)
          rows = Concat <axis = 1> (image_column, found, score_column, label_column)
          count = Shape(score)
          sorted, order = TopK <axis = 0> (score, count)
          detections = Gather <axis = 0> (rows, order)
        }}
        """
    )
    own = {name for node in graph.node for name in node.output} | {each.name for each in graph.initializer}
    rename = {name: f"nms_{name}" for name in own if name != "detections"}
    for each in graph.initializer:
        each.name = rename[each.name]
    for number, node in enumerate(graph.node):
        node.name = f"{DECODING}nms_{number}"
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
    model.graph.initializer.extend(graph.initializer)
    model.graph.node.extend(graph.node)
    del model.graph.output[:]
    model.graph.output.extend(graph.output)
