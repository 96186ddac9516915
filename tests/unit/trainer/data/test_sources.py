"""Sources become verified directories; what may not be read is refused before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_api.inputs import Source
from rlhf_trainer.data import https
from rlhf_trainer.data.sources import Sources
from rlhf_trainer.data.store import directory_digest, file_sha256
from rlhf_trainer.errors import CommunicationError, ConfigError, InputError, StageError, UnsupportedError

ROW = '{"instruction": "q", "output": "a"}\n'


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    """A claim `data` with a dataset directory, a single file and a small model."""
    claim = tmp_path / "claim"
    for name, text in {
        "chat/train.jsonl": ROW,
        "chat/test.jsonl": ROW,
        "one.jsonl": ROW,
        "model/config.json": "{}",
        "model/model.safetensors": "weights",
        "model/tokenizer.json": "{}",
        "model/README.md": "read me",
        "model/modeling.py": "import os",
    }.items():
        (claim / name).parent.mkdir(parents=True, exist_ok=True)
        (claim / name).write_text(text)
    return claim


@pytest.fixture
def sources(tmp_path: Path, claim: Path) -> Sources:
    return Sources(root=tmp_path / "root", claims={"data": claim}, secrets=tmp_path / "secrets", seed=1)


def a_source(uri: str, **fields: str) -> Source:
    return Source.from_wire({"uri": uri, **fields})


def files_of(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def test_a_directory_of_a_claim_is_copied_under_its_digest(sources: Sources, claim: Path) -> None:
    fetched = sources.fetch(a_source("pvc://data/chat"), "datasets")
    assert fetched.digest == directory_digest(claim / "chat")
    assert fetched.path == sources.root / "sources" / fetched.digest.replace(":", "-")
    assert files_of(fetched.path) == ["test.jsonl", "train.jsonl"]
    (claim / "chat" / "train.jsonl").write_text("changed later")
    assert directory_digest(fetched.path) == fetched.digest


def test_a_single_file_lies_in_a_directory_of_its_own(sources: Sources) -> None:
    assert files_of(sources.fetch(a_source("pvc://data/one.jsonl"), "datasets").path) == ["one.jsonl"]


def test_of_a_model_only_weights_configuration_and_tokenizer_are_taken(sources: Sources) -> None:
    assert files_of(sources.fetch(a_source("pvc://data/model"), "models").path) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_builtin_source_is_the_same_in_every_attempt(sources: Sources) -> None:
    first, second = (sources.fetch(a_source("builtin://datasets/tiny-chat-sft"), "datasets") for _ in range(2))
    assert first == second
    assert files_of(first.path) == ["test.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("uri", "kind", "error", "message"),
    [
        pytest.param("pvc://data/nothing", "datasets", InputError, "nothing is there", id="a path that does not exist"),
        pytest.param("pvc://other/chat", "datasets", ConfigError, "rlhf run --claim other=DIR", id="a claim that was not given"),
        pytest.param("pvc://data/chat", "models", InputError, "config.json: missing", id="a dataset where a model belongs"),
        pytest.param("builtin://datasets/nothing", "datasets", InputError, "builtin://datasets/tiny-chat-sft", id="an unknown builtin"),
        pytest.param(
            "builtin://models/tiny-llama", "datasets", InputError, "must be one of builtin://datasets", id="a builtin of another kind"
        ),
        pytest.param("s3://bucket/x", "datasets", UnsupportedError, "builtin://, pvc:// and https:// work", id="s3"),
        pytest.param("gs://bucket/x", "datasets", UnsupportedError, "pvc:// and https:// work", id="gs"),
        pytest.param("hf://org/name", "models", UnsupportedError, "copy it to a claim", id="hf"),
        pytest.param("oci://registry/repo@sha256:0", "models", UnsupportedError, "cannot be fetched yet", id="oci"),
        pytest.param("https://host/file.jsonl", "datasets", InputError, "sha256: missing", id="https without a pin"),
    ],
)
def test_what_cannot_be_fetched_is_refused(sources: Sources, uri: str, kind: str, error: type[StageError], message: str) -> None:
    source = Source.model_construct(uri=uri, revision=None, sha256=None, secret_name=None)  # the API refuses some of these earlier
    with pytest.raises(error) as caught:
        sources.fetch(source, kind)
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert [path.name for path in (sources.root / "sources").glob("*")] == []


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param("chat/passwd.jsonl", "/etc/passwd", id="an absolute link"),
        pytest.param("chat/up.jsonl", "../../secret", id="a link that climbs out"),
        pytest.param("chat/folder", "/etc", id="a link to a directory"),
    ],
)
def test_a_link_out_of_the_claim_is_refused(sources: Sources, claim: Path, name: str, target: str) -> None:
    (claim.parent / "secret").write_text("key")
    (claim / name).symlink_to(target)
    with pytest.raises(InputError, match="leads out of the claim"):
        sources.fetch(a_source("pvc://data/chat"), "datasets")


def test_a_link_inside_the_claim_is_followed(sources: Sources, claim: Path) -> None:
    (claim / "chat" / "eval.jsonl").symlink_to("../one.jsonl")
    copy = sources.fetch(a_source("pvc://data/chat"), "datasets").path / "eval.jsonl"
    assert copy.read_text() == ROW
    assert not copy.is_symlink()


def test_a_path_out_of_the_claim_is_refused(sources: Sources) -> None:
    source = Source.model_construct(uri="pvc://data/../root", revision=None, sha256=None, secret_name=None)
    (sources.root).mkdir()
    with pytest.raises(InputError, match="leads out of the claim"):
        sources.fetch(source, "datasets")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "sub/optimizer.pt", "a.pkl", "b.ckpt"])
def test_a_pickle_is_never_opened(sources: Sources, claim: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (claim / "model" / name).parent.mkdir(exist_ok=True)
    (claim / "model" / name).write_bytes(b"\x80\x04")
    opened: list[str] = []
    real_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), real_open(self, *a, **k))[1])
    with pytest.raises(InputError, match=f"{name} may be a pickle"):
        sources.fetch(a_source("pvc://data/model", sha256="0" * 64), "models")
    assert Path(name).name not in opened


def test_a_model_without_weights_is_refused(sources: Sources, claim: Path) -> None:
    (claim / "model" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"at least one .*safetensors file"):
        sources.fetch(a_source("pvc://data/model"), "models")


@pytest.mark.parametrize(
    ("uri", "kind", "digest"),
    [
        pytest.param("pvc://data/chat", "datasets", lambda claim: directory_digest(claim / "chat"), id="a directory"),
        pytest.param("pvc://data/one.jsonl", "datasets", lambda claim: file_sha256(claim / "one.jsonl"), id="a file"),
        pytest.param("pvc://data/model", "models", lambda claim: directory_digest(claim / "model"), id="all files of a model"),
    ],
)
def test_a_pin_is_checked(sources: Sources, claim: Path, uri: str, kind: str, digest: Callable[[Path], str]) -> None:
    sources.fetch(a_source(uri, sha256=digest(claim).removeprefix("sha256:")), kind)
    with pytest.raises(InputError, match=f"{uri}: sha256 .* must be {'0' * 64}"):
        sources.fetch(a_source(uri, sha256="0" * 64), kind)


def test_without_a_pin_later_attempts_must_see_the_same(sources: Sources, claim: Path) -> None:
    sources.fetch(a_source("pvc://data/one.jsonl"), "datasets")
    (claim / "one.jsonl").write_text("other\n")
    with pytest.raises(InputError, match="as the first attempt of this job saw it"):
        sources.fetch(a_source("pvc://data/one.jsonl"), "datasets")
    sources.fetch(a_source("pvc://data/one.jsonl", sha256=file_sha256(claim / "one.jsonl")), "datasets")  # a pin is a decision


def test_a_damaged_copy_is_replaced(sources: Sources) -> None:
    first = sources.fetch(a_source("pvc://data/chat"), "datasets")
    (first.path / "train.jsonl").write_text("damaged")
    assert sources.fetch(a_source("pvc://data/chat"), "datasets") == first
    assert directory_digest(first.path) == first.digest


def test_a_failed_copy_leaves_nothing(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf_trainer.data.sources.shutil.copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        sources.fetch(a_source("pvc://data/chat"), "datasets")
    assert list((sources.root / "sources").iterdir()) == []


class FakeServer:
    """Stands for `https.download`: what it delivers, and what it was asked."""

    def __init__(self, content: str) -> None:
        self.content, self.headers = content, [{}]

    def __call__(self, uri: str, target: Path, *, headers: dict[str, str], **_: object) -> None:
        self.headers.append(headers)
        target.write_text(self.content)

    @property
    def num_requests(self) -> int:
        return len(self.headers) - 1


def sha256_of(text: str, tmp_path: Path) -> str:
    (tmp_path / "expected").write_text(text)
    return file_sha256(tmp_path / "expected")


def test_a_download_is_verified_and_not_repeated(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(ROW)
    monkeypatch.setattr(https, "download", server)
    source = a_source("https://host/data/chat.jsonl", sha256=sha256_of(ROW, tmp_path))
    first = sources.fetch(source, "datasets")
    assert files_of(first.path) == ["chat.jsonl"]
    assert sources.fetch(source, "datasets") == first
    assert server.num_requests == 1
    (first.path / "chat.jsonl").write_text("damaged")
    assert sources.fetch(source, "datasets") == first
    assert server.num_requests == 2


def test_a_download_with_another_digest_is_not_kept(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "download", FakeServer("other"))
    with pytest.raises(InputError, match=r"sha256 .* must be 0000"):
        sources.fetch(a_source("https://host/chat.jsonl", sha256="0" * 64), "datasets")
    assert list((sources.root / "sources").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "header"),
    [
        pytest.param({"token": "abc\n"}, "Bearer abc", id="a token"),
        pytest.param({"username": "me", "password": "pw"}, "Basic bWU6cHc=", id="name and password"),
    ],
)
def test_a_secret_becomes_a_header(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str], header: str
) -> None:
    (tmp_path / "secrets" / "web").mkdir(parents=True)
    for key, value in keys.items():
        (tmp_path / "secrets" / "web" / key).write_text(value)
    server = FakeServer(ROW)
    monkeypatch.setattr(https, "download", server)
    sources.fetch(a_source("https://host/c.jsonl", sha256=sha256_of(ROW, tmp_path), secretName="web"), "datasets")
    assert server.headers[-1] == {"Authorization": header}


def test_a_secret_without_keys_is_refused(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "secrets" / "web").mkdir(parents=True)
    with pytest.raises(InputError, match="secret web: must have the key token"):
        sources.fetch(a_source("https://host/c.jsonl", sha256="0" * 64, secretName="web"), "datasets")


def test_an_unreachable_server_may_be_tried_again(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise CommunicationError("no route")

    monkeypatch.setattr(https, "download", unreachable)
    with pytest.raises(CommunicationError):
        sources.fetch(a_source("https://host/c.jsonl", sha256="0" * 64), "datasets")


def test_what_was_seen_is_written_down(sources: Sources) -> None:
    fetched = sources.fetch(a_source("pvc://data/chat"), "datasets")
    seen = json.loads((sources.root / "sources" / "seen.json").read_text())
    assert seen == {"pvc://data/chat": {"digest": fetched.digest, "sha256": None}}
