"""YAML files of `key: value` lines, with the line where one is wrong; a key that is given twice is an error."""

from pathlib import Path
from typing import Any

import yaml

from utils.errors import InputError
from utils.files import read_text


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


def _keep_words(node: yaml.Node | None) -> None:
    """Make strings of all that a list or mapping holds."""
    if isinstance(node, yaml.CollectionNode):
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else [entry])]
        for part in parts:
            if isinstance(part, yaml.ScalarNode):
                part.tag = yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG


def read_yaml(
    path: Path, expected: str, error: type[InputError] = InputError, words: str | None = None
) -> dict[str, Any]:
    """The file's keys and values; tags that would make Python objects are refused.

    The list or mapping under the key `words` holds strings as they are written: NO, 01 and null are three of them.

    Raises `error` with file and line for what is no YAML in UTF-8, and where it holds no keys: `expected` says which.
    """
    try:
        loader = _Loader(read_text(path, error))  # a SafeLoader, with one check more
        try:
            root = loader.get_single_node()
            if words is not None and isinstance(root, yaml.MappingNode):
                _keep_words(next((value for key, value in root.value if key.value == words), None))
            content = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except RecursionError:
        raise error(f"{path}: not valid YAML: nested too deeply") from None
    except yaml.MarkedYAMLError as problem:
        line = f":{problem.problem_mark.line + 1}" if problem.problem_mark else ""
        raise error(f"{path}{line}: not valid YAML: {problem.problem}") from None
    except yaml.YAMLError as problem:
        raise error(f"{path}: not valid YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(content, dict):
        got = "none" if content is None else type(content).__name__
        raise error(f"{path}: expected {expected}, got {got}")
    return content
