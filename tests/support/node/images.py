"""Container images without a Docker engine: Dockerfiles in, images in the node's containerd out.

debootstrap makes the base, buildah builds the real Dockerfiles on it, layers that containerd has already are not handed over again. All
of it is kept in the cache, under the digest of the lock file: a change of our code costs seconds, a new lock file minutes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from tests.support.cluster.binaries import cache_directory, ensure
from tests.support.node.configs import PAUSE_IMAGE
from tests.support.node.debian import ensure_packages

ROOT = Path(__file__).parents[3]
PREFIX = "localhost/rlhf-test"
BASE_IMAGE, OPERATOR_IMAGE, TRAINER_IMAGE = f"{PREFIX}/base:1", f"{PREFIX}/operator:1", f"{PREFIX}/trainer:1"
_SUITE, _BASE_PACKAGES = "bookworm", "python3,python3-venv,ca-certificates"
_CERTIFICATES = Path("/etc/ssl/certs")
_DEBOOTSTRAP = f"""\
mount -t tmpfs tmpfs "$1"  # thousands of small files, each synced and later deleted: on a disk that takes minutes
debootstrap --variant=minbase --include={_BASE_PACKAGES} {_SUITE} "$1/rootfs"
rm -rf "$1"/rootfs/var/cache/apt/archives/*.deb
tar -C "$1/rootfs" -cf "$2" .
"""
_BASE = 'FROM scratch\nADD rootfs.tar /\nCMD ["sleep", "infinity"]\n'
_PAUSE = f'FROM {BASE_IMAGE}\nENTRYPOINT ["sleep", "infinity"]\n'


class Images:
    """Builds images into the cache, and hands them to a containerd.

    Raises:
        RuntimeError: from every method, when a tool failed; the message carries the end of its output.
    """

    def __init__(self) -> None:
        ensure_packages()
        key = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()[:12]
        self.directory = cache_directory() / "images" / key
        _remove_others(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._layout = self.directory / "layout"

    def build_all(self) -> None:
        """Base, pause, operator and trainer, as far as they changed."""
        self.build_base()
        self.build(OPERATOR_IMAGE, ROOT / "images" / "operator" / "Dockerfile")
        self.build(TRAINER_IMAGE, ROOT / "images" / "trainer" / "Dockerfile")

    def build_base(self) -> None:
        """A minimal Debian with Python, which the others stand on, and the pause image of every pod."""
        if not self._has(BASE_IMAGE):
            with tempfile.TemporaryDirectory(dir=self.directory) as directory:
                (Path(directory) / "memory").mkdir()
                _run(["unshare", "--mount", "sh", "-euc", _DEBOOTSTRAP, "sh", f"{directory}/memory", f"{directory}/rootfs.tar"])
                self._buildah("build", "--tag", BASE_IMAGE, "--file", "-", directory, text=_BASE)
        if not self._has(PAUSE_IMAGE):
            self.build_text(PAUSE_IMAGE, _PAUSE)

    def build(self, name: str, dockerfile: Path) -> None:
        """One of our own images, from the repository's root. Packages come from uv's cache of this user when it has them."""
        packages = _uv_cache()
        volumes = [f"{packages}:/uv-cache", *([f"{_CERTIFICATES}:{_CERTIFICATES}:ro"] if _CERTIFICATES.exists() else [])]
        arguments = {"BASE": BASE_IMAGE, "UV_CACHE_DIR": "/uv-cache"}
        if certificates := os.environ.get("SSL_CERT_FILE"):
            arguments["SSL_CERT_FILE"] = certificates
        options = [part for volume in volumes for part in ("--volume", volume)]
        options += [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
        self._buildah("build", "--layers", *options, "--tag", name, "--file", str(dockerfile), str(ROOT))

    def build_text(self, name: str, dockerfile: str, files: Mapping[str, Path] | None = None) -> None:
        """A small image for a test: the text of a Dockerfile, and files that it copies."""
        with tempfile.TemporaryDirectory(dir=self.directory) as context:
            for target, source in (files or {}).items():
                shutil.copy(source, Path(context) / target)
            self._buildah("build", "--layers", "--tag", name, "--file", "-", context, text=dockerfile)

    def hand_to(self, socket: Path, *names: str) -> None:
        """Make the images known to a containerd. Layers that it has already stay where they are."""
        ctr = [str(ensure("ctr")["ctr"]), "--address", str(socket), "--namespace", "k8s.io"]
        for name in names:
            self._push(name)
            known = set(_run([*ctr, "content", "list", "--quiet"]).split())
            with subprocess.Popen(
                [*ctr, "images", "import", "--snapshotter", "overlayfs", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as importer:
                assert importer.stdin is not None
                assert importer.stdout is not None
                with importer.stdin as stream:
                    self._write_archive(name, known, stream)
                said = importer.stdout.read().decode()
            if importer.returncode:
                raise RuntimeError(f"ctr images import of {name} ended with {importer.returncode}:\n{said[-2000:]}")

    def _push(self, name: str) -> None:
        """Into a directory that keeps the layers, uncompressed: to compress them takes longer than everything else."""
        self._buildah("push", "--quiet", "--disable-compression", name, f"oci:{self._layout}:{name}")

    def _write_archive(self, name: str, known: set[str], stream: IO[bytes]) -> None:
        """The image as an OCI archive without the blobs in `known`."""
        index = json.loads((self._layout / "index.json").read_text(encoding="utf-8"))
        found = [entry for entry in index["manifests"] if entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == name]
        entry = found[-1] | {"annotations": {"io.containerd.image.name": name}}
        manifest = json.loads(self._blob(entry["digest"]).read_text(encoding="utf-8"))
        digests = [layer["digest"] for layer in (*manifest["layers"], manifest["config"])]
        with tarfile.open(fileobj=stream, mode="w|") as archive:
            _add_text(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            for digest in [*(digest for digest in digests if digest not in known), entry["digest"]]:
                archive.add(self._blob(digest), f"blobs/{digest.replace(':', '/')}")
            _add_text(archive, "index.json", {"schemaVersion": 2, "manifests": [entry]})

    def _blob(self, digest: str) -> Path:
        return self._layout / "blobs" / digest.replace(":", "/")

    def _has(self, name: str) -> bool:
        try:
            self._buildah("inspect", "--type", "image", name)
        except RuntimeError:
            return False
        return True

    def _buildah(self, *arguments: str, text: str | None = None) -> str:
        """In a mount namespace of its own, so that its mounts go with it."""
        with _scratch(self.directory) as run_root:
            options = ["--root", str(self.directory / "buildah"), "--runroot", run_root, "--storage-driver", "overlay"]
            return _run(
                ["unshare", "--mount", "buildah", *options, *arguments],
                text=text,
                environment={"BUILDAH_ISOLATION": "chroot", "TMPDIR": run_root},
            )


@contextmanager
def _scratch(directory: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=directory, prefix="run-") as path:
        yield path


def _remove_others(directory: Path) -> None:
    """Images of an older lock file take gigabytes and serve nobody."""
    for other in directory.parent.glob("*"):
        if other != directory:
            shutil.rmtree(other)


def _uv_cache() -> Path:
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _add_text(archive: tarfile.TarFile, name: str, content: Mapping[str, Any]) -> None:
    text = json.dumps(content).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(text)
    archive.addfile(entry, BytesIO(text))


def _run(command: Sequence[str], *, text: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout
