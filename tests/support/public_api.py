# SPDX-License-Identifier: Apache-2.0
"""The public names of the package, with their signatures, as text.

    python -m tests.support.public_api

rewrites `tests/public_api.txt`, which `tests/test_public_api.py` holds the package against: a change there is a
decision, and belongs into CHANGELOG.md.
"""

import ast
import importlib
import inspect
import textwrap
from pathlib import Path


PINNED = Path(__file__).parents[1] / "public_api.txt"
# as the docs name them
MODULES = (
    "tubevit_hf",
    "tubevit_hf.complexity",
    "tubevit_hf.conversion",
    "tubevit_hf.data",
    "tubevit_hf.data.moving_digits",
    "tubevit_hf.evaluation",
    "tubevit_hf.explanation",
    "tubevit_hf.export",
    "tubevit_hf.inference",
    "tubevit_hf.report",
    "tubevit_hf.training",
    "tubevit_hf.visualization",
)


def describe() -> str:
    """A block for each module: each name once, where it is first found, elsewhere by its name alone."""
    seen: set[int] = set()
    blocks = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines = [module_name]
        for name in sorted(public_names(module)):
            value = getattr(module, name)
            described = [name] if id(value) in seen else describe_value(name, value)
            lines += [f"    {line}" for line in described]
            seen.add(id(value))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def public_names(module) -> list[str]:
    """`__all__` or, of a module without one, what it defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = inspect.getmembers(module, lambda value: getattr(value, "__module__", None) == module.__name__)
    return [name for name, _ in own if not name.startswith("_")]


def describe_value(name: str, value) -> list[str]:
    if inspect.isclass(value):
        members = {}
        # what a class inherits within the package is its own to a user
        for base in reversed(value.__mro__):
            if base.__module__.startswith("tubevit_hf"):
                members |= dict(describe_class(parse(base)))
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        return [f"class {name}({bases})", *(f"    {member}" for member in members.values())]
    if inspect.isfunction(value):
        return [signature(parse(value))]
    return [f"{name}: {type(value).__name__}"]


def parse(value) -> ast.stmt:
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    return definition


def describe_class(definition: ast.ClassDef) -> list[tuple[str, str]]:
    """Fields and methods that are public, and how an object is made and called."""
    members = []
    for node in definition.body:
        if isinstance(node, ast.FunctionDef):
            if not node.name.startswith("_") or node.name in ("__init__", "__call__", "__iter__", "__len__"):
                members.append((node.name, signature(node)))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            [target] = node.targets if isinstance(node, ast.Assign) else [node.target]
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                members.append((target.id, " ".join(ast.unparse(node).split())))
    return members


def signature(node: ast.FunctionDef) -> str:
    kinds = ("classmethod", "property", "staticmethod")
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    prefix = "".join(f"@{decorator} " for decorator in decorators if decorator in kinds)
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"{prefix}def {node.name}({ast.unparse(node.args)}){returns}"


if __name__ == "__main__":
    PINNED.write_text(describe(), encoding="utf-8")
