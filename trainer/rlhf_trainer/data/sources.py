"""Outside data onto the volume: `builtin`, `pvc` and `https` sources become verified directories `sources/sha256-<digest>/`.

A source is copied under a temporary name, its digest is computed from the copy, and the copy is renamed into place: what was verified is
what is read later, whatever happens to the original. Nothing is executed, unpickled or unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf_api.inputs import Pinned
from rlhf_trainer.data import https
from rlhf_trainer.data.builtin import make
from rlhf_trainer.data.store import directory_digest, file_sha256, sync_tree
from rlhf_trainer.errors import ConfigError, InputError, UnsupportedError
from rlhf_trainer.models import presets

WORKING = "builtin://, pvc:// and https:// work"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MODEL_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A source on the volume."""

    path: Path
    """`sources/sha256-<digest>`: the directory that was copied, or a directory with the one file."""
    digest: str
    """`sha256:…` of the directory at `path` (api.md section 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where sources come from and go to, for one attempt of Prepare."""

    root: Path
    """The job's directory on the volume."""
    claims: Mapping[str, Path]
    secrets: Path
    seed: int
    allow_private_addresses: bool = False
    is_alive: Callable[[], None] = lambda: None
    """Called while bytes move, so that a long download is not taken for a stall."""

    def fetch(self, source: Pinned, kind: str) -> Fetched:
        """The source as a verified directory. `kind` is `models` or `datasets`.

        Raises:
            InputError: it is missing, has another sha256, or holds what may not be read (pickles, links out of the claim).
            UnsupportedError: its scheme does not work yet.
            ConfigError: the claim has no directory.
        """
        scheme, _, rest = source.uri.partition("://")
        if scheme == "builtin":
            return self._store(source, lambda target: self._make_builtin(source.uri, kind, rest, target))
        if scheme == "pvc":
            return self._from_claim(source, kind, rest)
        if scheme == "https" and kind == "datasets":
            return self._download(source)
        raise UnsupportedError(
            f"{source.uri}: {scheme}:// {kind} cannot be fetched yet: {WORKING}", hint="copy it to a claim: pvc://claim/path"
        )

    def _make_builtin(self, uri: str, kind: str, rest: str, target: Path) -> None:
        found, _, name = rest.partition("/")
        known = presets.PRESETS if kind == "models" else make.DATASETS
        if found != kind or name not in known:
            raise InputError(f"{uri}: must be one of {', '.join(f'builtin://{kind}/{each}' for each in known)}")
        if kind == "models":
            presets.write_preset(name, self.seed, target)
        else:
            make.write_dataset(name, target)

    def _from_claim(self, source: Pinned, kind: str, rest: str) -> Fetched:
        claim, _, path = rest.partition("/")
        if claim not in self.claims:
            raise ConfigError(f"{source.uri}: claim {claim!r} must have a directory here: rlhf run --claim {claim}=DIR")
        directory = self.claims[claim].resolve()
        origin = directory / path
        files = sorted(_files_inside(origin, directory, source.uri))
        if kind == "models":
            _refuse_pickles(files, source.uri)
        self._check_pin(source, origin, files)
        wanted = [name for name in files if kind == "datasets" or Path(name).suffix in _MODEL_SUFFIXES]
        if kind == "models":
            _require_model_files(wanted, source.uri)
        return self._store(source, lambda target: self._copy(origin, wanted, target))

    def _copy(self, origin: Path, names: list[str], target: Path) -> None:
        for name in names:
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / name if origin.is_dir() else origin, copy)
            self.is_alive()

    def _check_pin(self, source: Pinned, origin: Path, files: list[str]) -> None:
        """The digest that the user wrote is the one of all files, not only of those that are taken."""
        if source.sha256 is None:
            return
        found = directory_digest(origin).removeprefix("sha256:") if origin.is_dir() else file_sha256(origin)
        if found != source.sha256:
            raise _wrong_digest(source, found)

    def _download(self, source: Pinned) -> Fetched:
        if source.sha256 is None:
            raise InputError(f"{source.uri}: sha256: missing, must pin what https:// delivers: add it")
        name = https.file_name(source.uri)
        if (kept := self._recorded(source)) is not None:
            return kept
        headers = _credentials(self.secrets / source.secret_name) if source.secret_name else {}

        def load(target: Path) -> None:
            https.download(source.uri, target / name, headers=headers, allow_private=self.allow_private_addresses, is_alive=self.is_alive)
            if (found := file_sha256(target / name)) != source.sha256:
                raise _wrong_digest(source, found)

        return self._store(source, load)

    def _store(self, source: Pinned, fill: Callable[[Path], None]) -> Fetched:
        """Fill a temporary directory, name it by its digest, and remember which digest this uri had."""
        folder = self.root / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder) as target:
            fill(target)
            digest = directory_digest(target)
            self._check_unchanged(source, digest)
            final = folder / digest.replace(":", "-")
            if not (final.is_dir() and directory_digest(final) == digest):
                shutil.rmtree(final, ignore_errors=True)  # damaged since: the good copy takes its place
                sync_tree(target)
                target.rename(final)
        self._remember(source, digest)
        return Fetched(final, digest)

    @property
    def _record(self) -> Path:
        return self.root / "sources" / "seen.json"

    def _seen(self) -> dict[str, dict[str, str | None]]:
        return json.loads(self._record.read_text("utf-8")) if self._record.is_file() else {}

    def _recorded(self, source: Pinned) -> Fetched | None:
        """A pinned source that an earlier attempt fetched and that is still whole."""
        seen = self._seen().get(source.uri)
        if seen is None or seen["sha256"] != source.sha256:
            return None
        path = self.root / "sources" / str(seen["digest"]).replace(":", "-")
        return Fetched(path, str(seen["digest"])) if path.is_dir() and directory_digest(path) == seen["digest"] else None

    def _check_unchanged(self, source: Pinned, digest: str) -> None:
        """Without a pin, the first attempt decides what the job is about: later ones must see the same bytes."""
        seen = self._seen().get(source.uri)
        if seen and source.sha256 is None and seen["digest"] != digest:
            raise InputError(
                f"{source.uri}: digest {digest} must be {seen['digest']}, as the first attempt of this job saw it",
                hint="restore the files, or start a new job; sha256 in the source pins its content",
            )

    def _remember(self, source: Pinned, digest: str) -> None:
        seen = self._seen() | {source.uri: {"digest": digest, "sha256": source.sha256}}
        temporary = self._record.with_name(f".seen.{os.getpid()}")
        temporary.write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n", "utf-8")
        temporary.rename(self._record)


def _wrong_digest(source: Pinned, found: str) -> InputError:
    return InputError(f"{source.uri}: sha256 {found} must be {source.sha256}", hint="the content changed, or the wrong digest was written")


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    target = folder / f".incoming.{os.getpid()}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        yield target
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _files_inside(origin: Path, claim: Path, uri: str) -> Iterator[str]:
    """Names relative to `origin` (its own name when it is one file). Links may stay inside the claim, never leave it."""
    if not origin.exists():
        raise InputError(f"{uri}: nothing is there", hint="look for a spelling mistake in the path")
    for path in [origin, *(sorted(origin.rglob("*")) if origin.is_dir() else [])]:
        if not path.resolve().is_relative_to(claim):
            raise InputError(f"{uri}: {path.name} leads out of the claim (a link or '..'): copy the file into the claim")
        if path.is_file():
            yield path.relative_to(origin).as_posix() if path != origin else origin.name
        elif not path.is_dir():
            raise InputError(f"{uri}: {path.name} must be a file or a directory")


def _refuse_pickles(names: list[str], uri: str) -> None:
    pickles = [name for name in names if Path(name).suffix in PICKLES]
    if pickles:
        raise InputError(
            f"{uri}: {pickles[0]} may be a pickle, which runs code when it is read: it was not opened; weights must be .safetensors",
            hint="convert it with save_pretrained(safe_serialization=True) and remove the old file",
        )


def _require_model_files(names: list[str], uri: str) -> None:
    if "config.json" not in names:
        raise InputError(f"{uri}: config.json: missing: must be a model directory in Hugging Face layout")
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{uri}: must have at least one .safetensors file with weights")


def _credentials(secret: Path) -> dict[str, str]:
    """The Authorization header that a secret's keys ask for: `token`, or `username` and `password`."""
    from base64 import b64encode

    if (secret / "token").is_file():
        return {"Authorization": f"Bearer {(secret / 'token').read_text('utf-8').strip()}"}
    if (secret / "username").is_file() and (secret / "password").is_file():
        pair = ":".join((secret / key).read_text("utf-8").strip() for key in ("username", "password"))
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    raise InputError(f"secret {secret.name}: must have the key token, or username and password")
