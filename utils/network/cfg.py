"""Darknet .cfg text <-> sections, and sections -> typed options.

A cfg is a list of `[kind]` headers, each followed by `key=value` lines; `#` and `;` start a comment. Nothing here
knows what a kind means: each block declares an options dataclass (see `registry`), and `typed` fills it.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from utils.errors import CfgError
from utils.files import find_file

LARGEST_INT = 2**31 - 1  # whole numbers in Darknet have 32 bits
SHOWN = 80  # characters of a value in a message

DARKNET_ONLY = "Darknet's own training; train.py has options of its own"


@dataclass(frozen=True)
class Entry:
    """One `key=value` line."""

    key: str
    value: str
    line: int


@dataclass(frozen=True)
class Section:
    """One `[kind]` header with its lines, in file order."""

    kind: str
    line: int
    entries: tuple[Entry, ...]
    path: str

    def where(self, key: str | None = None) -> str:
        """`file:line` of the header, or of `key` where the section has it."""
        line = next((entry.line for entry in self.entries if entry.key == key), self.line)
        return f"{self.path}:{line}"


def read_cfg(path: str | Path) -> list[Section]:
    """Read a .cfg file. A bare name is also looked for in the project's cfg/ folder. Raises CfgError."""
    file = find_file(path, "cfg", CfgError)
    content = file.read_bytes()
    if b"\0" in content:
        raise CfgError(f"{file}: not a text file, expected a Darknet .cfg")
    return parse_cfg(content.decode("utf-8-sig", errors="replace"), str(file))  # comments may be in any encoding


def parse_cfg(text: str, path: str) -> list[Section]:
    """Parse cfg text into sections, the first of which is [net]. `path` is what errors call the file."""
    sections: list[Section] = []
    entries: list[Entry] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        content = line.split("#")[0].split(";")[0].strip()
        if not content:
            continue
        if content.startswith("["):
            if not content.endswith("]") or not content[1:-1].strip():
                raise CfgError(f"{path}:{number}: expected a section header such as [convolutional], got {content!r}")
            entries = []
            sections.append(Section(content[1:-1].strip(), number, (), path))
            continue
        key, equals, value = (part.strip() for part in content.partition("="))
        if not equals or not key or not value:
            raise CfgError(f"{path}:{number}: expected key=value, got {content!r}")
        if not sections:
            raise CfgError(f"{path}:{number}: expected the [net] section first, got {content!r}")
        entries.append(Entry(key.replace(" ", ""), value, number))
        sections[-1] = dataclasses.replace(sections[-1], entries=tuple(entries))
    if not sections:
        raise CfgError(f"{path}: holds no sections, expected [net] first")
    if sections[0].kind not in NetOptions.NAMES:
        raise CfgError(f"{sections[0].where()}: expected [net] as the first section, got [{sections[0].kind}]")
    return sections


def inert(keys: str, user: str) -> dict[str, str]:
    """The keys (words in a string) that change nothing here, each with who uses it."""
    return dict.fromkeys(keys.split(), user)


# ---- Typed options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What a section may say. Each field is a key that the network honours, with its type and Darknet's default."""

    INERT: ClassVar[dict[str, str]] = inert(
        """learning_rate clip onlyforward dont_update burnin_update stopbackward train_only_bn""",
        DARKNET_ONLY,
    )
    REFUSED: ClassVar[dict[str, str]] = {}  # keys that must keep Darknet's default (0) -> what they would do

    def resolved(self, warnings: list[str]) -> Self:
        """The options as Darknet takes them where one key depends on another; what is odd is added to `warnings`."""
        return self

    def validate(self) -> None:
        """Raise CfgError (without file and line, which the caller adds) when the values contradict each other."""


@dataclass(frozen=True)
class NetOptions(Options):
    """[net]: the input, `width` x `height` pixels, both divisible by the largest stride; `channels` 3: RGB, 1: grey."""

    NAMES: ClassVar[tuple[str, ...]] = ("net", "network")
    INERT: ClassVar[dict[str, str]] = {
        **inert(
            """batch subdivisions max_batches learning_rate learning_rate_min policy burn_in power steps scales
            seq_scales step scale gamma sgdr_cycle sgdr_mult momentum decay adam B1 B2 eps angle aspect saturation
            exposure hue max_crop min_crop flip mosaic mosaic_bound mixup cutmix gaussian_noise blur ema_alpha
            label_smooth_eps dynamic_minibatch random subdivision time_steps track augment_speed
            sequential_subdivisions try_fix_nan loss_scale num_sigmas_reject_badlabels
            badlabels_rejection_percentage badlabels_reject_threshold equidistant_point weights_reject_freq
            contrastive contrastive_jit_flip contrastive_color unsupervised adversarial_lr max_chart_loss
            resize_step attention""",
            DARKNET_ONLY,
        ),
        "letter_box": "Darknet's own test; here test.py and detect.py letterbox unless --stretch is given",
        **inert(
            """inputs optimized_memory workspace_size_limit_MB use_cuda_graph show_receptive_field""",
            "Darknet's memory and GPU handling",
        ),
    }
    width: int = dataclasses.field(default=416, metadata={"minimum": 1})
    height: int = dataclasses.field(default=416, metadata={"minimum": 1})
    channels: int = dataclasses.field(default=3, metadata={"choices": (1, 3)})


def option(
    default: Any,
    *,
    minimum: float | None = None,
    choices: tuple[str, ...] | None = None,
    reference: str | None = None,
    rare: bool = False,
    used_by: str = "honoured",
) -> Any:
    """A key of an options dataclass.

    `reference="source"` marks indices of layers whose output is read, `reference="weights"` of layers whose weights are
    shared, `reference="inert"` of layers that only Darknet looks at; all are relative (or absolute) in text and
    absolute in a Graph. `rare` keys are written only when set;
    `used_by` is what the linter says of a key that not every command honours.
    """
    metadata = {"minimum": minimum, "choices": choices, "reference": reference, "rare": rare, "used_by": used_by}
    return dataclasses.field(default=default, metadata=metadata)


O = TypeVar("O", bound=Options)


def typed(
    section: Section, options_type: type[O], warnings: list[str], strict: bool = False
) -> tuple[O, tuple[tuple[str, str], ...]]:
    """The section's honoured keys as `options_type`, and all others as text, in file order.

    As in Darknet, the first of a repeated key counts, and a key that nobody knows does nothing. What is read otherwise
    than one may expect is added to `warnings`, with file and line. Raises CfgError for a refused key or a bad value,
    and if `strict` for an unknown key.
    """
    values: dict[str, Any] = {}
    kept: dict[str, str] = {}
    first: dict[str, Entry] = {}
    for entry in section.entries:
        if first.setdefault(entry.key, entry) is not entry:
            warnings += contradiction(section, first[entry.key], entry)
            continue
        if strict and not is_known(entry.key, options_type):
            raise CfgError(
                f"{section.path}:{entry.line}: {unknown_key(section.kind, entry.key, options_type)} "
                f"(train.py --lenient ignores it, as Darknet does)"
            )
        honoured = read_entry(section, entry, options_type, warnings)
        if honoured is None:
            kept[entry.key] = entry.value
        else:
            values[honoured[0]] = honoured[1]
    odd: list[str] = []
    try:
        options = options_type(**values).resolved(odd)
        options.validate()
    except CfgError as error:
        raise CfgError(f"{section.where()}: [{section.kind}] {error}") from None
    warnings += [f"{section.where()}: [{section.kind}] {each}" for each in odd]
    return options, tuple(kept.items())


def contradiction(section: Section, first: Entry, again: Entry) -> list[str]:
    """What to say of a repeated key: nothing where both values are the same."""
    if again.value == first.value:
        return []
    return [
        f"{section.path}:{again.line}: {again.key}={_shown(again.value)}: given before as {_shown(first.value)} in "
        f"line {first.line}; Darknet and this project take the first, OpenCV the last"
    ]


def read_entry(
    section: Section, entry: Entry, options_type: type[Options], warnings: list[str]
) -> tuple[str, Any] | None:
    """One line as (field name, value), or None for a key that is not honoured; see `typed`."""
    where = f"{section.path}:{entry.line}"
    field = keys_of(options_type).get(entry.key)
    if field is not None:
        annotation = typing.get_type_hints(options_type)[field.name]
        return field.name, _convert(entry, annotation, field.metadata, where, warnings)
    if entry.key in options_type.REFUSED and entry.value not in {"0", "0.0"}:
        raise CfgError(
            f"{where}: {entry.key}={_shown(entry.value)} is not supported: {options_type.REFUSED[entry.key]}"
        )
    if not is_known(entry.key, options_type):
        warnings.append(f"{where}: {unknown_key(section.kind, entry.key, options_type)}; ignored, as Darknet does")
    return None


def is_known(key: str, options_type: type[Options]) -> bool:
    """Whether Darknet has such a key in such a section."""
    return key in keys_of(options_type) or key in options_type.INERT or key in options_type.REFUSED


def keys_of(options_type: type[Options]) -> dict[str, dataclasses.Field[Any]]:
    """The honoured keys as they are written -> their fields (`from` is a Python word, so its field is `from_`)."""
    return {field.name.rstrip("_"): field for field in dataclasses.fields(options_type)}


def unknown_key(kind: str, key: str, options_type: type[Options]) -> str:
    """The words for a key that nobody knows, with the nearest known one."""
    honoured = list(keys_of(options_type))
    near = difflib.get_close_matches(key, [*honoured, *options_type.INERT, *options_type.REFUSED], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected {' '.join(honoured) or 'no keys'}"
    return f"unknown key {key!r} in [{kind}], {hint}"


def _convert(entry: Entry, annotation: Any, metadata: typing.Mapping[str, Any], where: str, warnings: list[str]) -> Any:
    """One value as its annotated type; range and choices checked. Numbers are read as Darknet's atoi and atof do."""
    where = f"{where}: {entry.key}={_shown(entry.value)}"
    if isinstance(annotation, types.UnionType):  # `int | None`: None is only the default
        annotation = next(arg for arg in annotation.__args__ if arg is not type(None))
    try:
        if typing.get_origin(annotation) is tuple:
            kind, parts = typing.get_args(annotation)[0], entry.value.rstrip(",").split(",")
            value: Any = tuple(_number(part, kind, where, warnings) for part in parts)
        elif annotation is bool:
            value = _switch(_number(entry.value, int, where, warnings), where, warnings)
        else:
            value = entry.value if annotation is str else _number(entry.value, annotation, where, warnings)
    except ValueError:
        raise CfgError(f"{where}: expected {_words(annotation)}") from None
    if metadata.get("choices") and value not in metadata["choices"]:
        raise CfgError(f"{where}: expected one of {', '.join(map(str, metadata['choices']))}")
    if metadata.get("minimum") is not None and value < metadata["minimum"]:
        raise CfgError(f"{where}: expected at least {metadata['minimum']}")
    return value


def _number(text: str, kind: type, where: str, warnings: list[str]) -> Any:
    """A number in plain ASCII digits, as Darknet reads it: blanks taken out, of a fraction the whole part where a whole
    number is wanted; both are told. ValueError for what only Python would read as a number (1_6, nan), and for one that
    Darknet cannot hold.
    """
    joined = "".join(text.split())
    if not re.fullmatch(r"[-+.0-9eE]+", joined):
        raise ValueError
    if joined != text.strip():
        warnings.append(f"{where}: {text.strip()!r} is read as {joined}, as Darknet does; is a comma missing?")
    if kind is int and re.fullmatch(r"[-+]?\d+\.\d*", joined):
        whole = joined.partition(".")[0]
        warnings.append(f"{where}: read as {whole}, as Darknet does; expected a whole number")
        joined = whole
    value = kind(joined)
    if not math.isfinite(value) if kind is float else abs(value) > LARGEST_INT:
        raise ValueError
    return value


def _switch(value: int, where: str, warnings: list[str]) -> bool:
    """Whether a number is not 0."""
    if value not in {0, 1}:
        warnings.append(f"{where}: read as 1, as Darknet does; expected 0 or 1")
    return value != 0


def _shown(value: str) -> str:
    return value if len(value) <= SHOWN else f"{value[:SHOWN]}..."


def _words(annotation: Any) -> str:
    if typing.get_origin(annotation) is tuple:
        return f"{_words(typing.get_args(annotation)[0]).removeprefix('a ')}s separated by commas"
    return {int: "a whole number", float: "a number", bool: "0 or 1"}.get(annotation, "text")


def format_section(kind: str, options: Options, kept: typing.Iterable[tuple[str, str]]) -> str:
    """A section as text that `parse_cfg` and `typed` read back to equal options."""
    lines = [f"[{kind}]"]
    for key, field in keys_of(type(options)).items():
        value = getattr(options, field.name)
        if value is None or (field.metadata.get("rare") and value == field.default):
            continue
        lines.append(f"{key}={_text(value)}")
    lines += [f"{key}={value}" for key, value in kept]
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_text(part) for part in value)
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
