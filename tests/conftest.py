"""What every test runs under: the same threads, the same random examples, temporary files in one place, and no silent skip.

With CI=true a skip whose reason is not in tests/skips.txt fails the session: a tier that quietly stopped running looks green for months.
"""

import os
from pathlib import Path

# Before torch is imported anywhere: sums are split by the number of threads, so results depend on it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("PYTHONHASHSEED", "0")  # for child processes; this one has its own already

import pytest
from hypothesis import settings

settings.register_profile("repository", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("repository")

ALLOWED_SKIPS = Path(__file__).parent / "skips.txt"


def allowed_skips() -> list[str]:
    """Reasons that may skip a test in CI, one a line; lines with # are comments."""
    lines = (line.strip() for line in ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def unlisted(reasons: list[str], allowed: list[str]) -> list[str]:
    """The skip reasons that no line of the list begins."""
    return [reason for reason in reasons if not any(reason.startswith(line) for line in allowed)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rule(*ids, source): proves numbered rules of the trainer; see tests/oracle/ledger.py")
    config.addinivalue_line("markers", "mutant(*ids, of): shows that the check of these rules fails on a bug")


_skip_reasons: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note_skip(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note_skip(report)


def _note_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        _skip_reasons.append(report.longrepr[2].removeprefix("Skipped: "))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get("CI") == "true" and exitstatus == pytest.ExitCode.OK and unlisted(_skip_reasons, allowed_skips()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    unexpected = unlisted(_skip_reasons, allowed_skips())
    if unexpected and os.environ.get("CI") == "true":
        terminalreporter.section("skips that tests/skips.txt does not list")
        for reason in sorted(set(unexpected)):
            terminalreporter.line(f"{unexpected.count(reason)} x {reason}")
