"""Runs the mutants of `source_mutants.py`: a copy of the trainer with one line broken must fail the tests that are named for it.

    python -m tests.oracle.mutation [ID …]        all of them, or some; exits 1 when one survives

One process imports torch and transformers once and forks for each mutant, so that a mutant costs a second or two and not a start-up.
Child processes of a test see the broken copy too: it comes first on PYTHONPATH.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.oracle.source_mutants import MUTANTS, SourceMutant

REPOSITORY = Path(__file__).parents[2]
TRAINER = REPOSITORY / "trainer" / "rlhf_trainer"
QUIETLY = ["-x", "-q", "--no-header", "--timeout=120", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
"""transformers has imported some plugins of pytest already, which cannot be rewritten any more: an error otherwise."""
TESTS_FAILED = 1  # pytest's own code; others mean that the tests could not even run


def main(wanted: Sequence[str]) -> int:
    """Run the mutants and print one line for each."""
    chosen = [mutant for mutant in MUTANTS if not wanted or mutant.name in wanted]
    imported = sorted(name for name in sys.modules if name.startswith("rlhf_trainer"))
    assert not imported, f"a fork would test these and not the broken copy: {imported}"
    _import_once()
    lost = _check_unbroken(sorted({test for mutant in chosen for test in mutant.tests}))
    for mutant in chosen:
        code = _run(mutant.tests, mutant)
        verdict = {0: "SURVIVED", TESTS_FAILED: "caught"}.get(code, f"pytest exit code {code}")
        lost += verdict != "caught"
        print(f"{mutant.rule:4} {verdict:10} {mutant.name}", flush=True)
    print(f"{len(chosen)} mutants, {lost} not caught")
    return int(lost > 0)


def broken(mutant: SourceMutant) -> str:
    """The text of the mutant's file with its line broken.

    Raises:
        ValueError: the line is not there exactly once: the code has changed, the mutant has to follow.
    """
    text = (TRAINER / mutant.file).read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: {mutant.file} has {mutant.old!r} {text.count(mutant.old)} times, must have it once")
    return text.replace(mutant.old, mutant.new)


def _import_once() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    import pytest  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForSequenceClassification, GPT2LMHeadModel, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401


def _check_unbroken(tests: Sequence[str]) -> int:
    """Without a mutant all tests pass: else a failure would prove nothing."""
    code = _run(tests, None)
    print(f"     {'passed' if code == 0 else 'FAILED'}     {len(tests)} tests of the unbroken trainer", flush=True)
    return int(code != 0)


def _run(tests: Sequence[str], mutant: SourceMutant | None) -> int:
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "rlhf_trainer"
        shutil.copytree(TRAINER, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            (copy / mutant.file).write_text(broken(mutant), "utf-8")
        child = os.fork()
        if child == 0:
            _test(tests, Path(directory))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _test(tests: Sequence[str], directory: Path) -> None:
    """The child: run the tests against the copy, and end."""
    code = 70
    try:
        import pytest

        sys.path.insert(0, str(directory))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(directory), str(REPOSITORY)])
        os.chdir(REPOSITORY)
        with open(os.devnull, "w") as nowhere:
            if "-v" not in sys.argv:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
        code = int(pytest.main([*QUIETLY, f"--basetemp={directory / 'tmp'}", *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main([argument for argument in sys.argv[1:] if argument != "-v"]))
