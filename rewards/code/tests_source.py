"""Test code as source: what in it is a test, and what it needs from elsewhere. Part of tests_program.py."""

import ast
import builtins
import importlib
import sys
from collections import Counter
from types import ModuleType

CHECK = "check"  # the function that HumanEval's tests are in
RECORDER = "__test__"
_MODULES = {"np": "numpy", "numpy": "numpy"}  # what tests mean by these names, beside the names of Python's own modules


def has_assert(node: ast.AST) -> bool:
    """Whether a statement asserts something, itself or in what it repeats; not in functions that it only defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return False
    if isinstance(node, ast.Assert):
        return not isinstance(node.test, ast.Constant)
    return any(map(has_assert, ast.iter_child_nodes(node)))


def make_tests(tree: ast.Module) -> int:
    """Make tests of the statements of a module, and of its function `check`. Returns how many there are."""
    tree.body, count = recorded(tree.body)
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == CHECK:
            statement.body, of_check = recorded(statement.body)
            count += of_check
    return count


def recorded(statements: list[ast.stmt]) -> tuple[list[ast.stmt], int]:
    """The statements with each one that asserts something made a test, and how many those are."""
    made: list[ast.stmt] = []
    count = 0
    for statement in statements:
        if has_assert(statement):
            call = ast.Call(ast.Name(RECORDER, ast.Load()), [ast.Constant(ast.unparse(statement))], [])
            statement = ast.With([ast.withitem(call)], [statement])
            count += 1
        made.append(statement)
    return made, count


def calls_check(tree: ast.Module) -> bool:
    calls = (s.value for s in tree.body if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == CHECK for call in calls)


def free_names(trees: list[ast.Module]) -> set[str]:
    """Names that the tests read and Python does not have."""
    used = {n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return used - set(dir(builtins))


def modules_meant(trees: list[ast.Module], names: set[str]) -> dict[str, ModuleType]:
    """Of the names that tests read, those that stand for a module: each time for something that it has.

    They are imported here, for an answer may have a `math` of its own in which all is close. Raises ImportError.
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = Counter(node.id for node in nodes if isinstance(node, ast.Name))
    of_them: dict[str, list[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of_them.setdefault(node.value.id, []).append(node.attr)
    found: dict[str, ModuleType] = {}
    for name, attributes in of_them.items():
        if name not in names or read[name] > len(attributes) or name not in (*_MODULES, *sys.stdlib_module_names):
            continue
        module = importlib.import_module(_MODULES.get(name, name))
        if all(hasattr(module, attribute) for attribute in attributes):
            found[name] = module
    return found
