"""The examples in docstrings run, and every public class has one."""

import ast
import doctest
import inspect
import os
import re
from importlib import import_module
from pathlib import Path

import pytest

import pcm_policy
from pcm_policy import control, heads, networks, solvers
from pcm_policy.sampling.samplers import SAMPLERS

PACKAGE = Path(pcm_policy.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
FILES = [
    Path(folder, name)
    for folder, _, names in os.walk(PACKAGE, followlinks=True)
    for name in sorted(names)
    if name.endswith(".py") and ">>> " in Path(folder, name).read_text()
]


def public() -> list[type]:
    """Return every class that a user is meant to import or to name in a setting."""
    found = [getattr(pcm_policy, name) for name in pcm_policy.__all__]
    for module in (solvers, control, heads):
        found += [getattr(module, name) for name in module.__all__]
    found += [solvers.STEPS.find(name) for name in solvers.STEPS]
    found += [networks.NETWORKS.find(name) for name in networks.NETWORKS]
    found += [type(SAMPLERS.find(name)) for name in SAMPLERS]
    return sorted({c for c in found if isinstance(c, type)}, key=lambda c: c.__qualname__)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_examples_run(file: Path) -> None:
    name = ".".join(("pcm_policy", *file.relative_to(PACKAGE).with_suffix("").parts))
    done = doctest.testmod(import_module(name.removesuffix(".__init__")), optionflags=OPTIONS)
    assert done.attempted
    assert not done.failed


@pytest.mark.parametrize("kind", public(), ids=lambda c: c.__qualname__)
def test_a_public_class_has_an_example(kind: type) -> None:
    assert "Example:\n" in (inspect.cleandoc(kind.__doc__ or "")), kind


def test_docstrings_have_double_back_ticks() -> None:
    single = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        for file in (Path(folder, name) for name in names if name.endswith(".py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = (ast.get_docstring(node) or "").split("Example:\n")[0]
                    assert not single.findall(text), (file, single.findall(text))
