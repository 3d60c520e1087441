"""YAML files of `key: value` lines, with the line where one is wrong; a key that is given twice is an error."""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import InputError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As YAML asks and PyYAML does not: keys are unique."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, expected: str, error: type[InputError] = InputError) -> dict[str, Any]:
    """The file's keys and values; tags that would make Python objects are refused.

    Raises `error` with file and line for what is no YAML in UTF-8, and where it holds no keys: `expected` says which.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # a SafeLoader, with one check more
    except UnicodeDecodeError:
        raise error(f"{path}: expected a text file in UTF-8") from None
    except yaml.MarkedYAMLError as problem:
        line = f":{problem.problem_mark.line + 1}" if problem.problem_mark else ""
        raise error(f"{path}{line}: not valid YAML: {problem.problem}") from None
    except yaml.YAMLError as problem:
        raise error(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        got = "none" if content is None else type(content).__name__
        raise error(f"{path}: expected {expected}, got {got}")
    return content
