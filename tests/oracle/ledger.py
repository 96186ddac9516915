"""`docs/numerics.md`: rule → tests → mutants → source, from the marks on the tests and the numbers of the last `make numerics`.

    python -m tests.oracle.ledger        write it

The marks are read from the syntax trees, so nothing is imported and the check in tier `unit` takes a moment:

    @pytest.mark.rule("P3", source="Schulman et al. 2016, arXiv:1506.02438, eq. 16")     this test proves the rule
    @pytest.mark.mutant("P3")                    parametrized by mutants (`names(…)`, a list or a dict): each must fail the check
    @pytest.mark.mutant("T1", of="masters rebuilt from bf16 weights")                    one mutant, in words
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.oracle import rules
from tests.oracle.source_mutants import MUTANTS

REPOSITORY = Path(__file__).parents[2]
TESTS = REPOSITORY / "tests"
DOCUMENT = REPOSITORY / "docs" / "numerics.md"
MEASURED = REPOSITORY / "docs" / "measurements" / "numerics.json"
FOLDERS = ("oracle", "unit/trainer", "unit/test_repository.py", "local", "chaos")


@dataclass
class Proof:
    """What is known about one rule."""

    tests: list[str] = field(default_factory=list)
    mutants: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


def proofs() -> dict[str, Proof]:
    """Every mark of every test, and the source mutants, by rule."""
    found: dict[str, Proof] = defaultdict(Proof)
    for path in _files():
        tree = ast.parse(path.read_text("utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for kind, ids, words in _marks(function):
                if kind == "mutant" and not words:
                    words = _mutants_of(function, tree, path)
                for rule in ids:
                    _add(found[rule], kind, f"{path.relative_to(TESTS)}::{function.name}", words)
    for mutant in MUTANTS:
        found[mutant.rule].mutants.append(mutant.name)
    return found


def gaps(found: dict[str, Proof]) -> list[str]:
    """What is missing: a test, a mutant, a rule of that name."""
    problems = [f"{rule}: no such rule" for rule in found if rule not in rules.RULES]
    for rule in rules.RULES:
        has_test, has_mutant = bool(found[rule].tests), bool(found[rule].mutants)
        if has_test is (rule in rules.NOT_BUILT):
            problems.append(f"{rule}: {'has a test and stands in NOT_BUILT' if has_test else 'no test'}")
        elif has_mutant is (rule in rules.WITHOUT_MUTANT) and not rules.NOT_BUILT.get(rule):
            problems.append(f"{rule}: {'has a mutant and stands in WITHOUT_MUTANT' if has_mutant else 'no mutant'}")
    return problems


def document() -> str:
    """The text of `docs/numerics.md`."""
    found = proofs()
    lines = [
        "# Numerics: what is proven, by which test, and which bug the test catches",
        "",
        "Written by `make numerics` from the marks on the tests (`tests/oracle/ledger.py`); do not edit. A test of tier `unit` compares.",
        "A mutant is the bug that a peer shipped, or one line broken: the test beside it must fail on it, else it would prove nothing.",
    ]
    for letter, title in rules.GROUPS.items():
        lines += ["", f"## {title}", "", "| rule | what it says | tests | mutants that must fail | source |", "|---|---|---|---|---|"]
        lines += [_row(rule, found[rule]) for rule in rules.RULES if rule.startswith(letter)]
    return "\n".join([*lines, *_measured()]) + "\n"


def _row(rule: str, proof: Proof) -> str:
    tests = "<br>".join(dict.fromkeys(f"`{test}`" for test in proof.tests)) or f"– ({rules.NOT_BUILT.get(rule)})"
    mutants = ", ".join(dict.fromkeys(proof.mutants)) or f"– ({rules.WITHOUT_MUTANT.get(rule, 'not built')})"
    return f"| {rule} | {rules.RULES[rule]} | {tests} | {mutants} | {'; '.join(dict.fromkeys(proof.sources))} |"


def _measured() -> list[str]:
    """The tables of the last campaigns."""
    if not MEASURED.is_file():
        return []
    lines = []
    for title, table in json.loads(MEASURED.read_text("utf-8")).items():
        lines += ["", f"## {title}", "", table["text"], "", *(f"| {' | '.join(row)} |" for row in _with_rule(table["rows"]))]
    return lines


def _with_rule(rows: list[list[str]]) -> list[list[str]]:
    return [rows[0], ["---"] * len(rows[0]), *rows[1:]]


def _files() -> Iterator[Path]:
    for folder in FOLDERS:
        path = TESTS / folder
        yield from [path] if path.is_file() else sorted(path.rglob("test_*.py"))


def _marks(function: ast.FunctionDef) -> Iterator[tuple[str, list[str], str]]:
    """(rule or mutant, rule ids, source or words) of every mark, also of those on single parameters."""
    for call in (node for decorator in function.decorator_list for node in ast.walk(decorator) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name in ("pytest.mark.rule", "pytest.mark.mutant"):
            words = {keyword.arg: str(ast.literal_eval(keyword.value)) for keyword in call.keywords}
            yield name.rpartition(".")[2], [ast.literal_eval(node) for node in call.args], words.get("of") or words.get("source", "")


def _add(proof: Proof, kind: str, test: str, words: str) -> None:
    if kind == "rule":
        proof.tests.append(test)
        proof.sources += [words] if words else []
    else:
        proof.mutants.append(words)


def _mutants_of(function: ast.FunctionDef, tree: ast.Module, path: Path) -> str:
    """The names that the function is parametrized with; nothing for a rule mark."""
    for call in (node for decorator in function.decorator_list for node in ast.walk(decorator) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if name == "names":
            return ", ".join(_listed(call.args[0], tree, path))
        if name == "pytest.mark.parametrize" and len(call.args) == 2:
            return ", ".join(_listed(call.args[1], tree, path))
    return ""


def _listed(node: ast.expr, tree: ast.Module, path: Path) -> list[str]:
    """Readable names of a list of functions, of a dict's keys, or of what such a name stands for, here or in another module."""
    if isinstance(node, ast.List):
        return [ast.unparse(item).rpartition(".")[2].replace("_", " ") for item in node.elts]
    if isinstance(node, ast.Dict):
        return [str(ast.literal_eval(key)) for key in node.keys if key is not None]
    if isinstance(node, ast.Name):
        return _listed(_assigned(node.id, tree), tree, path)
    if isinstance(node, ast.Attribute):
        module, alias = _imported(ast.unparse(node.value), tree, path)
        return _listed(_assigned(node.attr, module), module, alias)
    return []


def _assigned(name: str, tree: ast.Module) -> ast.expr:
    return next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and name in [ast.unparse(target) for target in node.targets]
    )


def _imported(alias: str, tree: ast.Module, path: Path) -> tuple[ast.Module, Path]:
    for node in (node for node in tree.body if isinstance(node, ast.ImportFrom)):
        for name in node.names:
            if alias == (name.asname or name.name):
                file = path.parent / f"{name.name}.py"
                return ast.parse(file.read_text("utf-8")), file
    raise ValueError(f"{path}: {alias} is not imported at the top")


if __name__ == "__main__":
    DOCUMENT.write_text(document(), "utf-8")
