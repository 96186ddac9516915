"""The operator's image holds a chosen few packages: everything that its code imports must be among them, or come with one of them."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("rlhf_api", "rlhf_operator", "rlhf_cli")


def imported() -> set[str]:
    """Third-party modules that the operator's packages import anywhere, also inside functions."""
    found = set()
    for package in PACKAGES:
        for file in (REPOSITORY / "operator" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module)
    tops = {name.partition(".")[0] for name in found}
    return {name for name in tops if name not in sys.stdlib_module_names and not name.startswith("rlhf_")}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_operators_image_has_what_the_operator_imports() -> None:
    text = (REPOSITORY / "images" / "operator" / "Dockerfile").read_text(encoding="utf-8")
    (line,) = re.findall(r"--constraints \S+ (.+) \\", text)
    listed = {normal(name) for name in line.split()}
    brought = {
        normal(re.split(r"[\s<>=!~;\[(]", need)[0]) for name in listed for need in metadata.requires(name) or () if "extra ==" not in need
    }
    owners = metadata.packages_distributions()
    missing = {module for module in imported() if not {normal(name) for name in owners[module]} & (listed | brought)}
    assert missing == set(), f"add them to {line!r} in images/operator/Dockerfile"
