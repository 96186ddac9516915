"""A trained model out, in Hugging Face layout (rules O1 to O3): weights in shards, config, tokenizer, generation defaults.

Everything except the weights is copied from the directory the stage started from, so nothing about a model is invented here. The
manifest is not written here: a stage adds it when its whole output is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

MAX_SHARD_BYTES = 5 * 10**9
"""Hubs and readers expect weights in files of at most 5 GB."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


def write_weights(directory: Path, tensors: Iterable[tuple[str, Tensor]], *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """`model.safetensors`, or numbered shards and their index. Holds one shard in memory; tied tensors must come once."""
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[tuple[Path, list[str]]] = []
    pending: dict[str, Tensor] = {}
    total_bytes = pending_bytes = 0

    def flush() -> None:
        path = directory / f"shard-{len(shards)}.safetensors"
        save_file(pending, path, metadata={"format": "pt"})
        shards.append((path, list(pending)))
        pending.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if pending and pending_bytes + size > max_shard_bytes:
            flush()
            pending_bytes = 0
        pending[name] = tensor.detach().cpu().contiguous()
        pending_bytes += size
        total_bytes += size
    flush()
    _name_shards(directory, shards, total_bytes)


def _name_shards(directory: Path, shards: Sequence[tuple[Path, list[str]]], total_bytes: int) -> None:
    if len(shards) == 1:
        shards[0][0].rename(directory / "model.safetensors")
        return
    weight_map = {}
    for number, (path, names) in enumerate(shards, start=1):
        final = directory / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        path.rename(final)
        weight_map.update(dict.fromkeys(names, final.name))
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def write_config(directory: Path, hf: PreTrainedModel, dtype: torch.dtype, *, pad_id: int | None = None) -> None:
    """`config.json` of the model that is trained, naming the number format of the weights beside it.

    `pad_id` fills a gap only: transformers' own score models refuse batches without a padding token.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = hf.config.to_diff_dict()
    config |= {"architectures": [type(hf).__name__], "dtype": str(dtype).removeprefix("torch.")}
    config.pop("quantization_config", None)  # an NF4 base was the stage's own choice: what leaves it has plain weights
    if config.get("pad_token_id") is None and pad_id is not None:
        config["pad_token_id"] = pad_id
    write_json(directory / "config.json", config)


def write_generation_config(directory: Path, *, stop_ids: Sequence[int], pad_id: int) -> None:
    """`generation_config.json`: an exported model stops where it was trained to stop, also under `generate()` of transformers."""
    write_json(directory / "generation_config.json", {"eos_token_id": list(stop_ids), "pad_token_id": pad_id, "do_sample": True})


def copy_tokenizer(source: Path, directory: Path, chat_template: str | None = None) -> None:
    """Tokenizer, byte for byte: the next stage must cut text into the same tokens.

    `chat_template` is the one that the model was trained with (`spec.model.chatTemplate`); readers prefer its file to any other.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    if chat_template is not None:
        (directory / "chat_template.jinja").write_text(chat_template, "utf-8")


def write_json(path: Path, content: Any) -> None:
    """Readable JSON with a final newline."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def tied_names(hf: PreTrainedModel) -> set[str]:
    """Names of tensors that are another tensor's memory (a tied output head): files carry them once."""
    seen: dict[int, str] = {}
    tied = set()
    for name, tensor in hf.state_dict(keep_vars=True).items():
        if seen.setdefault(id(tensor), name) != name:
            tied.add(name)
    return tied
