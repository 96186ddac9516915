"""Rules about the repository itself, which no compiler checks: what must not exist, what may not be imported, how long a file may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import unlisted

ROOT = Path(__file__).parents[2]
PACKAGES = ("operator/rlhf_api", "operator/rlhf_operator", "operator/rlhf_cli", "trainer/rlhf_trainer")
MAX_LINES = 300
HEAVY = ("torch", "transformers", "colossalai", "datasets", "kopf", "kubernetes", "aiohttp", "numpy", "ruamel")


def sources(*roots: str) -> list[Path]:
    return sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_operator_is_a_folder_and_never_a_package() -> None:
    # `operator/__init__.py` would shadow the standard library's `operator` for every python started in the root: nothing would run.
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_python_starts_in_the_root_with_the_standard_operator() -> None:
    program = "import operator; assert operator.add(1, 2) == 3"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_tests_live_under_tests_only() -> None:
    # In importlib mode a test inside operator/ would register a fake `operator` module.
    stray = [name(path) for path in sources("operator", "trainer") if path.name.startswith("test_") or path.name == "conftest.py"]
    assert stray == []


def offenders(is_fine: Callable[[str], object]) -> list[str]:
    """The source files of all packages that break a rule."""
    return [name(path) for path in sources(*PACKAGES) if not is_fine(path.read_text(encoding="utf-8"))]


def test_every_module_says_what_flows_in_and_out() -> None:
    assert offenders(lambda text: ast.get_docstring(ast.parse(text))) == []


def test_a_file_is_one_reading() -> None:
    assert offenders(lambda text: len(text.splitlines()) <= MAX_LINES) == []


def calls(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that is called: `torch.load`, `eval`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


UNSAFE_CALLS = {"eval", "exec", "torch.load", "torch.save", "numpy.load", "np.load"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unsafe_in(source: str) -> set[str]:
    """What a file uses that can run foreign code while it reads data (rule S4)."""
    tree = ast.parse(source)
    return (set(calls(tree)) & UNSAFE_CALLS) | ({module.split(".")[0] for module in imports(tree)} & UNSAFE_MODULES)


@pytest.mark.rule("S4", "T5")
def test_nothing_is_ever_unpickled_or_evaluated() -> None:
    assert offenders(lambda text: not unsafe_in(text)) == []


@pytest.mark.parametrize("source", ["import pickle", "from joblib import load", "torch.load('w.bin')", "eval('1')"])
@pytest.mark.mutant("S4", of="calls of pickle, torch.load, eval and exec")
def test_the_lint_for_unsafe_loading_sees(source: str) -> None:
    assert unsafe_in(source)


def test_a_method_called_eval_is_no_evaluation() -> None:
    assert unsafe_in("model.eval()") == set()


ROOMS = {
    "operator/rlhf_api": {"pydantic", "pydantic_core", "rlhf_api"},
    "operator/rlhf_operator/core": {"pydantic", "rlhf_api", "rlhf_operator.core"},
    "trainer/rlhf_trainer/rl": {"torch", "rlhf_trainer.rl"},
}
"""What the pure rooms may import beside the standard library. import-linter only knows what is forbidden; here the list is of what is allowed."""


@pytest.mark.parametrize("room", ROOMS)
def test_a_pure_room_imports_nothing_else(room: str) -> None:
    def is_allowed(module: str) -> bool:
        return module.split(".")[0] in sys.stdlib_module_names or any(f"{module}.".startswith(f"{known}.") for known in ROOMS[room])

    foreign = {
        (name(path), module) for path in sources(room) for module in imports(ast.parse(path.read_text("utf-8"))) if not is_allowed(module)
    }
    assert foreign == set()


def test_the_walls_between_the_rooms_stand() -> None:
    checked = subprocess.run([Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout[-4000:]


@pytest.mark.parametrize("module", ["rlhf_api", "rlhf_api.validate", "rlhf_api.planning", "rlhf_api.run_config", "rlhf_cli.main"])
def test_what_starts_often_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print([m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")


def test_nothing_is_left_for_later_in_the_code() -> None:
    assert offenders(lambda text: not UNFINISHED.search(text)) == []  # docs/limits.md is the place


MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|home/[a-z]+)/")


def test_no_file_names_a_path_of_one_machine() -> None:
    texts = ((path, path.read_text(encoding="utf-8", errors="ignore")) for path in tracked_files() if path.name != "uv.lock")
    assert [name(path) for path, text in texts if MACHINE_PATH.search(text)] == []


def test_the_ci_script_can_be_run() -> None:
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    documented = re.findall(r"^([a-z0-9-]+):.*## ", text, re.MULTILINE)
    assert sorted(phony.split()) == sorted(documented)


def test_a_skip_counts_only_when_it_is_listed() -> None:
    allowed = ["needs a CUDA device"]
    assert unlisted(["needs a CUDA device", "needs a CUDA device with 80 GB"], allowed) == []
    assert unlisted(["bitsandbytes is broken today"], allowed) == ["bitsandbytes is broken today"]


def test_every_formula_has_a_test_that_imports_it() -> None:
    imported: set[str] = set()
    for path in sources("tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    modules = {f"rlhf_trainer.rl.{path.stem}" for path in sources("trainer/rlhf_trainer/rl") if path.stem != "__init__"}
    assert modules - imported == set()
