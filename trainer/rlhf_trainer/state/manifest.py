"""Manifests: the list of a directory's files with their sha256, written last and renamed into place.

What has a manifest that verifies is complete; anything else does not exist (api.md section 8, rules C3 and C4). The digest of a
manifest is the sha256 of its bytes: it names an output, a checkpoint or an artifact as a whole. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from rlhf_api.base import digest
from rlhf_api.outcome import Manifest, ManifestFile
from rlhf_trainer.errors import InputError
from rlhf_trainer.run import Run

MANIFEST = "manifest.json"
_CHUNK_BYTES = 4 << 20


def write_manifest(
    directory: Path,
    kind: Literal["output", "checkpoint", "artifact"],
    run: Run,
    *,
    step: int,
    inputs: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Complete a directory: fsync every file, then put `manifest.json` in place atomically. Returns its digest.

    `inputs` maps roles to the digests that were read. Files must not change afterwards.
    """
    files = tuple(_entry(directory, path) for path in _files(directory))
    config = run.config
    manifest = Manifest(
        version=1,
        kind=kind,
        job=config.job.name,
        stage=config.stage.name,
        attempt=config.attempt,
        step=step,
        inputs=dict(inputs or {}),
        metrics=dict(metrics or {}),
        files=files,
    )
    content = manifest.to_bytes()
    write_atomically(directory / MANIFEST, content)
    return digest(content)


def verify(directory: Path, expected: str | None = None) -> Manifest:
    """Check the manifest's digest, then every file's size and sha256. Extra files are not looked at.

    Raises:
        InputError: something is missing or has changed. The message names the file.
    """
    manifest = read(directory, expected)
    for file in manifest.files:
        _check(directory, file)
    return manifest


def read(directory: Path, expected: str | None = None) -> Manifest:
    """The manifest alone, checked against its digest when one is given.

    Raises:
        InputError: it is missing, unreadable or another one.
    """
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the manifest cannot be read ({error.strerror}): the directory is incomplete") from error
    if expected is not None and digest(content) != expected:
        raise InputError(f"{path}: digest {digest(content)}, expected {expected}: it was changed or replaced")
    try:
        return Manifest.from_wire(json.loads(content))
    except ValueError as error:
        raise InputError(f"{path}: not a manifest: {error}") from error


def file_sha256(path: Path) -> str:
    """The sha256 of a file as 64 hex digits, read in pieces."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Readers see the old file or the whole new one, also after a crash or a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def _files(directory: Path) -> Iterator[Path]:
    paths = [path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST]
    return iter(sorted(paths, key=lambda path: path.relative_to(directory).as_posix()))


def _entry(directory: Path, path: Path) -> ManifestFile:
    _fsync(path)
    return ManifestFile(path=path.relative_to(directory).as_posix(), size_bytes=path.stat().st_size, sha256=file_sha256(path))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(directory: Path, file: ManifestFile) -> None:
    path = (directory / file.path).resolve()
    if not path.is_relative_to(directory.resolve()):
        raise InputError(f"{directory / MANIFEST}: {file.path!r} lies outside of the directory")
    if not path.is_file():
        raise InputError(f"{path}: missing, though the manifest lists it")
    if path.stat().st_size != file.size_bytes:
        raise InputError(f"{path}: {path.stat().st_size} bytes, the manifest says {file.size_bytes}")
    if file_sha256(path) != file.sha256:
        raise InputError(f"{path}: its content has another sha256 than the manifest says")
