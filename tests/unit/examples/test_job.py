"""The real-model demo trains in the number format that the CPU has instructions for."""

from pathlib import Path
from types import ModuleType

import pytest

from rlhf_api.validate import parse_job
from rlhf_cli.job_files import read_object
from tests.support.scripts import load_script


@pytest.fixture(scope="module")
def job() -> ModuleType:
    """The script as a module."""
    return load_script("real-model/job.py")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_only_the_precision_changes(job: ModuleType, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "real-chat.yaml"
    file.write_text(job.job_file(precision), "utf-8")
    wire, example = read_object(file), read_object(job.EXAMPLE)
    assert parse_job(wire).spec.model.precision == precision
    example["spec"]["model"]["precision"] = precision
    assert wire == example
