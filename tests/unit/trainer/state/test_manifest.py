"""Manifests: written last, verified before anything is read."""

from pathlib import Path

import pytest

from rlhf_api.base import digest
from rlhf_trainer.errors import InputError
from rlhf_trainer.state import manifest
from tests.support.runs import a_run


@pytest.fixture
def complete(tmp_path: Path) -> tuple[Path, str]:
    directory = tmp_path / "output"
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "weights").write_bytes(b"12345")
    (directory / "config.json").write_text("{}")
    inputs = {"init": "sha256:" + "1" * 64}
    return directory, manifest.write_manifest(directory, "output", a_run(tmp_path), step=7, inputs=inputs, metrics={"loss": 1.5})


def test_lists_files_sorted_with_size_and_hash(complete: tuple[Path, str]) -> None:
    directory, found = complete
    read = manifest.verify(directory, found)
    assert [(file.path, file.size_bytes) for file in read.files] == [("config.json", 2), ("model/weights", 5)]
    assert (read.step, read.stage, read.attempt, read.metrics) == (7, "sft", 1, {"loss": 1.5})
    assert found == digest((directory / "manifest.json").read_bytes())


def test_equal_outputs_have_equal_digests(complete: tuple[Path, str], tmp_path: Path) -> None:
    directory, found = complete
    again = manifest.write_manifest(
        directory, "output", a_run(tmp_path), step=7, inputs={"init": "sha256:" + "1" * 64}, metrics={"loss": 1.5}
    )
    assert again == found


def test_a_nested_manifest_is_a_file_like_any_other(tmp_path: Path) -> None:
    directory = tmp_path / "output"
    (directory / "model").mkdir(parents=True)
    (directory / "model" / "manifest.json").write_text("{}")
    manifest.write_manifest(directory, "artifact", a_run(tmp_path), step=0)
    assert [file.path for file in manifest.read(directory).files] == ["model/manifest.json"]


@pytest.mark.parametrize(("name", "content", "message"), [
    pytest.param("model/weights", b"12346", "sha256", id="one changed byte"),
    pytest.param("model/weights", b"1234", "bytes", id="cut off"),
    pytest.param("model/weights", None, "missing", id="removed"),
    pytest.param("manifest.json", None, "cannot be read", id="no manifest"),
    pytest.param("manifest.json", b"{}", "expected", id="another manifest"),
])  # fmt: skip
@pytest.mark.rule("C4")
def test_what_changed_is_named(complete: tuple[Path, str], name: str, content: bytes | None, message: str) -> None:
    directory, found = complete
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        manifest.verify(directory, found)
    assert name in str(caught.value)


def test_a_manifest_that_is_none_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(InputError, match="not a manifest"):
        manifest.verify(tmp_path)


def test_paths_that_leave_the_directory_are_refused(complete: tuple[Path, str]) -> None:
    directory, _ = complete
    (directory.parent / "secret").write_bytes(b"12345")
    text = (directory / "manifest.json").read_text().replace("model/weights", "../secret")
    (directory / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="outside"):
        manifest.verify(directory)


@pytest.mark.rule("C3")
def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "LATEST"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        manifest.write_atomically(target, b"new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
