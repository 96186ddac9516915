"""In CI a skipped test fails the session unless its reason is listed; the closing line stays pytest's own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PASSING = "def test_passes(): ...\n"
UNLISTED = (
    "import pytest\n@pytest.mark.skip(reason='nobody knows')\ndef test_marked(): ...\n\ndef test_called(): pytest.skip('nobody knows')\n"
)
UNLISTED_MODULE = "import pytest\npytest.skip('nobody knows', allow_module_level=True)\n"
LISTED = "import pytest\n@pytest.mark.skip(reason='needs a CUDA device with 80 GB')\ndef test_marked(): ...\n"


def run_pytest(folder: Path, *files: str) -> tuple[int, list[str]]:
    """Exit code and lines of a session in CI under this repository's conftest."""
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    for number, text in enumerate(files):
        (folder / f"test_{number}.py").write_text(text)
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), "-o", f"pythonpath={ROOT}", str(folder)]
    environment = os.environ | {"CI": "true"}
    done = subprocess.run([sys.executable, "-m", "pytest", *options], env=environment, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout.splitlines()


def test_unlisted_skips_fail_and_are_counted(tmp_path: Path) -> None:
    code, lines = run_pytest(tmp_path, PASSING, UNLISTED, UNLISTED_MODULE)
    assert code == 1
    assert "3 x nobody knows" in lines
    assert lines[-1].startswith("1 passed, 3 skipped")


def test_listed_skips_pass(tmp_path: Path) -> None:
    code, lines = run_pytest(tmp_path, PASSING, LISTED)
    assert code == 0
    assert lines[-1].startswith("1 passed, 1 skipped")
