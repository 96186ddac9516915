"""Talk to a model directory: a base model, a stage's output, or a published artifact, also one in NF4 or int8, on a CPU or a GPU.

A library for `rlhf chat`. The conversation goes through the model's own chat template and stops at the ids of its
`generation_config.json`, exactly as in training. torch is imported when a model is loaded, not before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rlhf_trainer.errors import InputError
from rlhf_trainer.models import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Chat:
    """A loaded model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: tuple[int, ...]
    pad_id: int

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Load the model in `directory`, on the GPU when there is one.

        Raises:
            InputError: it holds no language model, no chat template, or names no token that ends an answer.
        """
        import torch

        tokenizer = load.load_tokenizer(directory)
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(f"{directory}: its tokenizer has no chat template", hint="name an output of SFT or a published model")
        stop_ids, pad_id = _stop_and_pad(directory, tokenizer)
        is_quantized = "quantization_config" in load.read_config(directory)
        on_gpu = torch.cuda.is_available()
        model = load.load_model(directory, torch.bfloat16 if is_quantized or on_gpu else torch.float32)
        return cls(model.to("cuda") if on_gpu and not is_quantized else model, tokenizer, stop_ids, pad_id)

    def reply(self, messages: Sequence[Mapping[str, str]], *, max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 0) -> str:
        """The model's answer to a conversation that ends with the user's turn. Temperature 0 takes the most probable tokens.

        Raises:
            ValueError: there is no message, or the last one is not the user's.
        """
        import torch

        from rlhf_trainer.rollout.generate import GenerateConfig, generate
        from rlhf_trainer.rollout.limits import context_of
        from rlhf_trainer.rollout.philox import row_seed

        if not messages or messages[-1]["role"] != "user":
            raise ValueError("messages: the last one must be the user's")
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False)["input_ids"]], device=self.model.device)
        config = GenerateConfig(
            max_new_tokens=max_new_tokens,
            stop_ids=self.stop_ids,
            pad_id=self.pad_id,
            temperature=temperature or 1.0,
            greedy=temperature == 0,
            context=context_of(self.model.config),
        )
        seeds = None if config.greedy else [row_seed(seed, len(messages), text)]
        found = generate(self.model, ids, torch.ones_like(ids), config, seeds)
        answer = [token for token in found.tokens[0][found.mask[0].bool()].tolist() if token not in self.stop_ids]
        decoded: str = self.tokenizer.decode(answer, skip_special_tokens=True)
        return decoded.strip()


def _stop_and_pad(directory: Path, tokenizer: Any) -> tuple[tuple[int, ...], int]:
    file = directory / "generation_config.json"
    try:
        defaults = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise InputError(f"{file}: not a readable generation configuration: {error}", hint="copy the artifact again") from error
    named = defaults.get("eos_token_id", tokenizer.eos_token_id)
    stop_ids = tuple(int(token) for token in (named if isinstance(named, list) else [named]) if token is not None)
    if not stop_ids:
        raise InputError(f"{directory}: no token ends an answer", hint="add eos_token_id to its generation_config.json")
    pad_id = defaults.get("pad_token_id")
    return stop_ids, int(stop_ids[0] if pad_id is None else pad_id)
