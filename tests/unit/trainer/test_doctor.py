"""The doctor's findings (rule S2), and how much memory is left."""

from pathlib import Path

import pytest

from rlhf_trainer import doctor, memory


@pytest.mark.parametrize(("installed", "is_fine"), [
    ("2.11.0", True), ("2.11.3+cu130", True), ("2.10.9", False), ("2.12.0", False),
])  # fmt: skip
@pytest.mark.rule("S2")
def test_pins_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch, installed: str, is_fine: bool) -> None:
    monkeypatch.setattr(doctor, "version", lambda _: installed)
    finding = doctor.check_pin("torch", (2, 11), (2, 12))
    assert finding.is_fine is is_fine
    assert is_fine or ">= 2.11, < 2.12" in finding.text


def test_a_missing_package_is_named() -> None:
    finding = doctor.check_pin("no-such-package", (1,), None)
    assert (finding.name, finding.is_fine) == ("no-such-package", False)


def test_one_bad_finding_fails_the_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [doctor.Finding("torch", "2.11.0"), doctor.Finding("HybridAdam", "does not load", is_fine=False)]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    assert doctor.main() == 1
    assert capsys.readouterr().out.splitlines() == ["ok   torch            2.11.0", "FAIL HybridAdam       does not load"]
    findings.pop()
    assert doctor.main() == 0


def test_this_machine_has_the_pinned_versions() -> None:
    assert all(doctor.check_pin(package, *pins).is_fine for package, pins in doctor.PINS.items())


@pytest.mark.parametrize(("limit", "used", "free"), [("3000", "1000", 2000), ("max", "1000", 4096), ("500", "1000", 0), (None, None, 4096)])
def test_a_cgroup_may_leave_less_than_the_machine_has(tmp_path: Path, limit: str | None, used: str | None, free: int) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   4 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    assert memory.free_host_bytes(tmp_path / "meminfo", tmp_path) == free
