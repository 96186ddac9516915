"""A job's volume with a model of two layers and a few prepared rows: what training stages need, built in milliseconds.

shop = Workshop(tmp_path)
sft = stages.sft.run(shop.sft(maxSteps=4))
ppo = stages.ppo.run(shop.ppo(steps=2))          # reads the outputs of the stages that ran before it
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_trainer.data.rows import ConversationRow, PreferenceRow, PromptRow, Row
from rlhf_trainer.data.store import directory_digest, write_dataset
from rlhf_trainer.models import export
from rlhf_trainer.run import Run
from rlhf_trainer.state.manifest import read, write_manifest
from tests.support.runs import a_run

VOCABULARY, STOP, PAD = 64, 2, 0
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def a_llama(seed: int = 0, **changes: Any) -> Any:
    """A Llama with 2 layers of 16 dimensions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
        "bos_token_id": 1,
        "eos_token_id": STOP,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()


def write_model(model: Any, directory: Path) -> Path:
    """The model as a Hugging Face directory with a tokenizer of single letters."""
    tied = export.tied_names(model)
    export.write_weights(directory, ((name, tensor) for name, tensor in model.state_dict().items() if name not in tied))
    export.write_config(directory, model, next(model.parameters()).dtype)
    _write_tokenizer(directory)
    return directory


def conversations(count: int, seed: int = 0) -> list[ConversationRow]:
    """Prompts of letters, answered with their first letter; every third one ends after it has answered twice."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        prompt = np.concatenate([[1], rng.integers(4, 40, rng.integers(2, 6)), [3]]).astype(np.int32)
        answer = np.array([prompt[1]] * (2 if i % 3 == 0 else 1) + [STOP], dtype=np.int32)
        ids = np.concatenate([prompt, answer])
        mask = np.array([0] * len(prompt) + [1] * len(answer), dtype=np.uint8)
        rows.append(ConversationRow(f"c{seed}-{i}", ids, mask, prompt, LETTERS[int(prompt[1]) - 4], "en" if i % 2 else "zh"))
    return rows


def preferences(count: int, seed: int = 0) -> list[PreferenceRow]:
    """The first letter is better than another one."""
    return [
        PreferenceRow(
            row.row_id, row.prompt_ids, row.input_ids, np.concatenate([row.prompt_ids, [41, STOP]]).astype(np.int32), "letters", None, "en"
        )
        for row in conversations(count, seed)
    ]


def prompts(count: int, seed: int = 0) -> list[PromptRow]:
    """The prompts of `conversations`."""
    return [PromptRow(row.row_id, row.prompt_ids, row.answer, row.language) for row in conversations(count, seed)]


class Workshop:
    """One job's volume. Stages that ran are inputs of later ones, as the operator would wire them."""

    def __init__(self, directory: Path, *, base: Any = None, num_rows: int = 24, **common: Any) -> None:
        self.directory, self.common = directory, common
        self.root = directory / "uid-1"
        source = write_model(base if base is not None else a_llama(), self.root / "sources" / "model")
        datasets = {
            "sft.dataset": self._dataset("conversations", conversations(num_rows), conversations(6, seed=9)),
            "rm.dataset": self._dataset("preference", preferences(num_rows), preferences(6, seed=9)),
            "ppo.prompts": self._dataset("prompts", prompts(num_rows), prompts(6, seed=9)),
        }
        models = {"model": {"path": "sources/model", "digest": directory_digest(source), "vocabSize": VOCABULARY}}
        self._found = {"version": 1, "chatTemplate": "letters", "models": models, "datasets": datasets}
        self.prepare()

    def prepare(self, *, attempt: int = 1) -> None:
        """Prepare runs, or runs again: it finds the same, and its output is another one."""
        place = f"stages/prepare/r{attempt}"
        output = self.root / place / "output"
        output.mkdir(parents=True)
        (output / "prepared.json").write_text(json.dumps(self._found))
        run = a_run(self.directory, directory=place, stage={"name": "prepare", "type": "SFT"}, attempt=attempt)
        self.prepared = {"path": f"{place}/output", "digest": write_manifest(output, "output", run, step=1)}

    def sft(self, *, attempt: int = 1, run: dict[str, Any] | None = None, **config: Any) -> Run:
        """A run of stage `sft` from the base model."""
        block = {"dataset": {"uri": "pvc://c/d"}, "learningRate": 1e-2, "globalBatchSize": 8, "maxLength": 16, **config}
        wiring = {"preparedModels": {"init": "model"}, "preparedDatasets": {"dataset": "sft.dataset"}}
        return self.run("sft", "SFT", block, attempt=attempt, **wiring, **(run or {}))

    def reward(self, *, attempt: int = 1, run: dict[str, Any] | None = None, **config: Any) -> Run:
        """A run of stage `rm` from the output of `sft`, or from the base model while there is none."""
        block = {"dataset": {"uri": "pvc://c/d"}, "learningRate": 1e-2, "globalBatchSize": 8, "maxLength": 16, **config}
        inputs = self.outputs(init="sft")
        models = {} if inputs else {"init": "model"}
        return self.run(
            "rm",
            "RewardModel",
            block,
            attempt=attempt,
            inputs=inputs,
            preparedModels=models,
            preparedDatasets={"dataset": "rm.dataset"},
            **(run or {}),
        )

    def ppo(self, *, attempt: int = 1, run: dict[str, Any] | None = None, **config: Any) -> Run:
        """A run of stage `ppo` from the outputs of `sft` and `rm`."""
        block = {
            "prompts": {"uri": "pvc://c/d"},
            "learningRate": 1e-3,
            "criticLearningRate": 1e-3,
            "rolloutBatchSize": 8,
            "minibatchSize": 4,
            "maxPromptLength": 16,
            "maxNewTokens": 4,
            "criticWarmupSteps": 0,
            **config,
        }
        datasets = {"prompts": "ppo.prompts", "pretrainDataset": "sft.dataset"}
        inputs = self.outputs(policy="sft", reward="rm", critic="rm")
        return self.run("ppo", "PPO", block, attempt=attempt, inputs=inputs, preparedDatasets=datasets, **(run or {}))

    def run(self, stage: str, kind: str, block: dict[str, Any], *, attempt: int = 1, **changes: Any) -> Run:
        """A run of any stage."""
        wire = {
            "stage": {"name": stage, "type": kind},
            "attempt": attempt,
            "directory": f"stages/{stage}/r{attempt}",
            "config": block,
            "prepared": self.prepared,
            "plan": {"strategy": "plain", "microBatchSize": 4, "gradientCheckpointing": False},
        }
        return replace(a_run(self.directory, **wire | self.common | changes), claims={"models": self.directory / "claim"})

    def outputs(self, **stages: str) -> dict[str, dict[str, str]]:
        """Role → the newest output of a stage, for those that have one."""
        from rlhf_api.base import digest

        found = {}
        for role, stage in stages.items():
            manifests = sorted(self.root.glob(f"stages/{stage}/r*/output/manifest.json"))
            if manifests:
                directory = manifests[-1].parent
                read(directory)
                found[role] = {"path": directory.relative_to(self.root).as_posix(), "digest": digest(manifests[-1].read_bytes())}
        return found

    def _dataset(self, purpose: Any, train: list[Any], held_out: list[Any]) -> dict[str, Any]:
        facts = {"stopIds": [STOP], "padId": PAD, "statistics": {"droppedRows": 0}}
        splits: dict[str, list[Row]] = {"train": train, "eval": held_out[:3], "held_out": held_out}
        path = self.root / "datasets" / purpose
        digest = write_dataset(path, purpose, splits, facts)
        return {"path": f"datasets/{purpose}", "digest": digest, "rows": len(train), "evalRows": 3, "heldOutRows": len(held_out)}


def _write_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    special = ["<pad>", "<s>", "</s>", "<answer>"]
    words = {token: i for i, token in enumerate([*special, *LETTERS])}
    words |= {f"<{i}>": i for i in range(len(words), VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "tokenizer.json"))
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<answer>"
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
