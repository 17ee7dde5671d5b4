"""The house style, as far as a machine can hold it and the linters do not."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_MODULE_LINES_MAX = 300
_FUNCTION_LINES_MAX = 60


def _modules(checkout: Path, *folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((checkout / folder).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path.relative_to(checkout).as_posix(), path.read_text()


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_modules_are_short(checkout: Path) -> None:
    """No module passes three hundred lines: there, the second noun is looked for."""
    long = {
        name: lines
        for name, text in _modules(checkout, "forwarder")
        if (lines := len(text.splitlines())) > _MODULE_LINES_MAX
    }
    assert not long


def test_functions_are_short(checkout: Path) -> None:
    """No function passes sixty lines, its docstring counted."""
    long = [
        f"{name}:{function.lineno} {function.name}"
        for name, text in _modules(checkout, "forwarder", "tests")
        for function in _functions(ast.parse(text))
        if function.end_lineno is not None and function.end_lineno - function.lineno >= _FUNCTION_LINES_MAX
    ]
    assert not long


def test_every_test_is_a_promise(checkout: Path) -> None:
    """Every test's docstring is one sentence that says what it holds."""
    silent = [
        f"{name}:{function.lineno} {function.name}"
        for name, text in _modules(checkout, "tests")
        for function in _functions(ast.parse(text))
        if function.name.startswith("test_") and not (ast.get_docstring(function) or "").rstrip().endswith(".")
    ]
    assert not silent


def _sleeps(node: ast.AST) -> Iterator[int]:
    """Yield the lines that sleep for a time and are in no loop that looks again: those that hope it was long enough."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.While | ast.For | ast.AsyncFor):
            continue
        match child:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="asyncio" | "time"), attr="sleep"),
                args=[ast.Constant(value=0)],
            ):
                pass
            case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio" | "time"), attr="sleep")):
                yield child.lineno
            case _:
                pass
        yield from _sleeps(child)


def test_no_test_sleeps_to_hide_a_race(checkout: Path) -> None:
    """A test waits for what it expects, within a bound; one that must let time pass says beside it what for."""
    sleeping = [
        f"{name}:{line}"
        for name, text in _modules(checkout, "tests")
        for function in _functions(ast.parse(text))
        if function.name.startswith("test_")
        for line in _sleeps(function)
        if "  # " not in text.splitlines()[line - 1]
    ]
    assert not sleeping


def test_no_test_mocks(checkout: Path) -> None:
    """The stand-ins are fakes with behaviour: no mock library is imported anywhere."""
    mocking = [
        name
        for name, text in _modules(checkout, "tests", "forwarder")
        if re.search(r"^\s*(?:import|from) (?:unittest|mock|pytest_mock)\b", text, flags=re.MULTILINE)
    ]
    assert not mocking


@pytest.mark.parametrize("mark", ["noqa", "type: ignore", "pragma: no cover"])
def test_every_exception_to_a_rule_has_a_reason(checkout: Path, mark: str) -> None:
    """Whoever silences a tool says beside it why, in words after the rule's name."""
    after = re.compile(
        rf"# {mark}(?P<rules>: ?[A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*|\[[a-z-]+(?:, ?[a-z-]+)*\])?(?P<reason>.*)$"
    )
    silenced = [
        f"{name}:{number}"
        for name, text in _modules(checkout, "forwarder", "tests")
        for number, line in enumerate(text.splitlines(), start=1)
        if (match := after.search(line)) and len(re.findall(r"[A-Za-z]{2,}", match["reason"])) <= 1
    ]
    assert not silenced


def test_importing_costs_no_import_time_tricks(checkout: Path) -> None:
    """No module hides an import from the graph behind TYPE_CHECKING."""
    assert not [name for name, text in _modules(checkout, "forwarder", "tests/flow") if "TYPE_CHECKING:" in text]
