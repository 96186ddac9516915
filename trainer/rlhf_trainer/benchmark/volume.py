"""The volume of a benchmark: options and plan in, a job's directory out, as Prepare and the operator would have left it.

    bench/sources/model     random weights, Hugging Face layout: policy, reference, reward model and critic start from it
    bench/datasets/prompts  random prompts
    bench/stages/prepare/…  prepared.json
    run.json                written last: who waits for it finds everything else there

The same options give the same bytes, so each node writes its own. Answers must have their full length to compare, and a random policy
may draw any token: the stop id is one beyond the vocabulary, which is never drawn.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rlhf_api.names import PATH_WORKSPACE
from rlhf_api.planning.architectures import Architecture, Family
from rlhf_api.run_config import RunConfig, run_sha256
from rlhf_trainer.benchmark.gang import Gang
from rlhf_trainer.benchmark.options import Options
from rlhf_trainer.benchmark.planning import Planned
from rlhf_trainer.data.rows import PromptRow
from rlhf_trainer.data.store import directory_digest, write_dataset
from rlhf_trainer.errors import CommunicationError
from rlhf_trainer.run import Run
from rlhf_trainer.state.manifest import write_atomically, write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_PROMPTS: Final = 1000
SEED: Final = 42
RUN_FILE: Final = "run.json"
ATTEMPT: Final = "stages/ppo/r1"
PAD_ID: Final = 0
_JOB: Final = "bench"
_WAIT_SECONDS: Final = 1800.0


def write(directory: Path, options: Options, gang: Gang, planned: Planned) -> None:
    """Write the whole volume.

    Raises:
        OSError: the disk is full, or not writable.
    """
    root = directory / _JOB
    model, prompts = root / "sources" / "model", root / "datasets" / "prompts"
    write_model(options, planned.precision, model)
    digest = write_dataset(prompts, "prompts", {"train": _prompts(options), "eval": [], "held_out": []}, _facts(options))
    found = {
        "version": 1,
        "chatTemplate": "",
        "models": {"model": {"path": "sources/model", "digest": directory_digest(model), "vocabSize": options.shape.vocab_size}},
        "datasets": {"ppo.prompts": {"path": "datasets/prompts", "digest": digest, "rows": NUM_PROMPTS}},
    }
    prepared = {"path": "stages/prepare/r1/output", "digest": _write_prepared(root, gang, planned, found)}
    config = RunConfig.from_wire(_run_wire(gang, planned) | {"prepared": prepared})
    write_atomically(directory / RUN_FILE, config.to_bytes())


def wait_for(directory: Path) -> None:
    """Wait until this node's first worker has written the volume.

    Raises:
        CommunicationError: it has not within half an hour.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while not (directory / RUN_FILE).is_file():
        if time.monotonic() > deadline:
            raise CommunicationError(f"{directory / RUN_FILE}: local worker 0 has not written it within {_WAIT_SECONDS:.0f} s")
        time.sleep(0.1)


def disk_bytes(options: Options, planned: Planned) -> int:
    """What a run takes on a node's disk: one model, and at the end a checkpoint (fp32, three numbers a parameter) and two outputs."""
    num_parameters = options.shape.num_parameters
    weights = num_parameters * (2 if planned.precision == "bf16" else 4)
    checkpoints = 0 if options.lora_rank else 2 * 12 * num_parameters
    return 3 * weights + checkpoints


def write_model(options: Options, precision: str, directory: Path) -> None:
    """Random weights, configuration, and a tokenizer that calls token 7 `<7>`."""
    import torch

    from rlhf_trainer.models import export, load

    torch.manual_seed(SEED)
    dtype = load.torch_dtype(precision)
    hf = build_model(options.shape, options.total_tokens).to(dtype)
    tied = export.tied_names(hf)
    export.write_weights(directory, ((name, tensor) for name, tensor in hf.state_dict().items() if name not in tied))
    export.write_config(directory, hf, dtype, pad_id=PAD_ID)
    _write_tokenizer(options.shape.vocab_size, directory)


def build_model(shape: Architecture, num_tokens: int) -> PreTrainedModel:
    """The transformers model of a shape, with fresh weights and room for rows of `num_tokens`."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

    config: Any
    if shape.family is Family.GPT2:
        config = GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context,
            n_embd=shape.hidden_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
        )
    elif shape.family is Family.OPT:
        config = OPTConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            ffn_dim=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            max_position_embeddings=shape.context,
            word_embed_proj_dim=shape.embedding_size,
            do_layer_norm_before=shape.embedding_size == shape.hidden_size,  # 350m alone norms afterwards
        )
    else:
        config = LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            max_position_embeddings=max(shape.context, num_tokens),
            tie_word_embeddings=shape.has_tied_head,
        )
    # our stop id is none of the vocabulary; those of the families could be
    config.pad_token_id, config.bos_token_id, config.eos_token_id = PAD_ID, PAD_ID, None
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def _facts(options: Options) -> dict[str, Any]:
    return {"stopIds": [options.shape.vocab_size], "padId": PAD_ID, "statistics": {}}


def _prompts(options: Options) -> list[PromptRow]:
    ids = np.random.Generator(np.random.Philox(key=SEED)).integers(0, options.shape.vocab_size, (NUM_PROMPTS, options.prompt_tokens))
    return [PromptRow(f"p{number}", row.astype(np.int32), None, "en") for number, row in enumerate(ids)]


def _write_tokenizer(vocab_size: int, directory: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"<{i}>": i for i in range(vocab_size)}, unk_token="<0>")).save(str(directory / "tokenizer.json"))


def _write_prepared(root: Path, gang: Gang, planned: Planned, found: dict[str, Any]) -> str:
    """The output of a Prepare that found everything; returns its digest."""
    attempt = "stages/prepare/r1"
    output = root / attempt / "output"
    output.mkdir(parents=True)
    (output / "prepared.json").write_text(json.dumps(found), "utf-8")
    stage = {"stage": {"name": "prepare", "type": "Prepare"}, "config": {"models": [], "datasets": []}, "directory": attempt}
    config = RunConfig.from_wire(_run_wire(gang, planned) | stage)
    digest = "sha256:" + run_sha256(config.to_bytes())
    run = Run(config=config, digest=digest, root=root, directory=root / attempt, secrets=root / "secrets")
    return write_manifest(output, "output", run, step=1)


def _run_wire(gang: Gang, planned: Planned) -> dict[str, Any]:
    plan, model = planned.plan, planned.spec.model
    return {
        "version": 1,
        "job": {"name": _JOB, "namespace": "default", "uid": _JOB},
        "stage": {"name": "ppo", "type": "PPO"},
        "attempt": 1,
        "gang": {
            "nodes": gang.nodes,
            "processesPerNode": gang.per_node,
            "worldSize": gang.size,
            "masterAddress": gang.master_address,
            "masterPort": gang.master_port,
            "device": gang.device,
        },
        "root": f"{PATH_WORKSPACE}/{_JOB}",
        "directory": ATTEMPT,
        "model": {"precision": planned.precision, **({"lora": model.lora.to_wire()} if model.lora else {})},
        "preparedModels": dict.fromkeys(("policy", "reward", "critic"), "model"),
        "preparedDatasets": {"prompts": "ppo.prompts"},
        "plan": {
            "strategy": plan.strategy,
            "microBatchSize": plan.micro_batch_size,
            "gradientCheckpointing": plan.gradient_checkpointing,
        },
        "config": planned.block.to_wire(),
        "seed": SEED,
        # one checkpoint, after the last rollout: none falls into the measured time
        "checkpoint": {"everySeconds": 86400, "keep": 1},
        "deadlines": {"startupSeconds": 600, "progressSeconds": 3600, "shutdownSeconds": 110},
        "progressPort": 0,
    }
