"""Every command that the documents show is one that the commands take, and every file they name is there."""

import importlib
import re
import shlex
from typing import Any

import pytest
import tyro

from tests.conftest import PROJECT
from utils.data import autolabel, crops, formats, remap, split, stats
from utils.data import check as data_check

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "docs/detecting.md",
    "docs/ghostnet.md",
    "docs/deploy.md",
    "docs/pruning.md",
    "docs/training.md",
    "weights/README.md",
)
OPTIONS: dict[str, Any] = {
    "benchmark.py": ("benchmark", "Benchmark"),
    "classify.py": ("classify", "Command"),
    "export.py": ("export", "ExportOptions"),
    "serve.py": ("serve", "ServeOptions"),
    "prune.py": ("prune", "PruneOptions"),
    "train.py": ("train", "TrainOptions"),
    "detect.py": ("detect", "CommandOptions"),
    "models.py": ("models", "ModelOptions"),
    "utils.data.check": data_check.CheckOptions,
    "utils.data.formats": formats.Options,
    "utils.data.split": split.SplitOptions,
    "utils.data.remap": remap.RemapOptions,
    "utils.data.autolabel": autolabel.AutolabelOptions,
    "utils.data.stats": stats.StatsOptions,
    "utils.data.crops": crops.CropOptions,
}


def commands() -> list[str]:
    found = []
    for name in DOCUMENTS:
        text = (PROJECT / name).read_text()
        found += re.findall(r"(?m)^(?:\$ )?(python (?:-m )?[\w./]+.*)$", text)
        found += re.findall(r"`(python (?:-m )?[\w./]+[^`]*)`", text)
    return sorted({command.split("  #")[0].strip() for command in found})


def test_there_are_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_documented_commands_parse(command: str) -> None:
    words = [word for word in shlex.split(command) if word != "-m"]
    script, arguments = words[1], words[2:]
    if script.startswith("examples/"):  # run by tests/deploy/test_examples.py; they take no options
        assert (PROJECT / script).exists() and not any(word.startswith("-") for word in arguments)
        return
    if script in {"venv", "pip"} or "..." in arguments or arguments == ["--help"]:
        return
    if script == "test.py":  # by path: the name `test` may also be the standard library's package
        spec = importlib.util.spec_from_file_location("measure", PROJECT / "test.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        import sys

        sys.modules["measure"] = module
        spec.loader.exec_module(module)
        options = module.TestOptions
    elif isinstance(OPTIONS[script], tuple):
        options = getattr(importlib.import_module(OPTIONS[script][0]), OPTIONS[script][1])
    else:
        options = OPTIONS[script]
    tyro.cli(options, args=arguments, config=(tyro.conf.OmitArgPrefixes,))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_exist(name: str) -> None:
    folder = (PROJECT / name).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (PROJECT / name).read_text()):
        assert (folder / target).exists(), target
