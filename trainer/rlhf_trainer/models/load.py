"""Model directories in, modules out: causal language models, score models and tokenizers in Hugging Face layout.

Only safetensors and JSON are read, nothing is fetched, and no code that came with a model runs unless the job says
`trustRemoteCode` (rule S4). Transformers is imported inside the functions: its 8 seconds belong to whoever loads a model.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_trainer.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTENTION = "sdpa"
"""Takes the boolean 4-D masks of packed rows as they are; `flash_attention_2` would ignore them."""


def torch_dtype(precision: str) -> torch.dtype:
    """The number format of `spec.model.precision`.

    Raises:
        UnsupportedError: fp16. It needs loss scaling, which no strategy here has (rule T7).
    """
    import torch

    formats = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in formats:
        raise UnsupportedError(f"spec.model.precision: {precision!r} needs loss scaling, which does not exist here", hint="use bf16")
    return formats[precision]


def load_model(
    path: Path, dtype: torch.dtype, *, trust_remote_code: bool = False, load_in_4bit: bool = False, quantization_config: Any = None
) -> PreTrainedModel:
    """The causal language model at `path`, on the CPU, in eval mode. `load_in_4bit` is the NF4 base of QLoRA.

    Raises:
        InputError: the directory holds no such model.
        UnsupportedError: its logits are not those of its output matrix alone.
    """
    from transformers import AutoModelForCausalLM

    arguments = _arguments(path, dtype, trust_remote_code)
    if load_in_4bit or quantization_config:
        arguments["quantization_config"] = quantization_config or nf4_config(dtype)
    model = _from_pretrained(AutoModelForCausalLM, path, arguments)
    _refuse_scaled_logits(model, path)
    return model


def load_score_model(path: Path, dtype: torch.dtype, *, trust_remote_code: bool = False, load_in_4bit: bool = False) -> PreTrainedModel:
    """The model at `path` as `…ForSequenceClassification` with one label: a scalar `score` head above the backbone.

    A language model's directory has no such head: it is there afterwards, with values that `heads.new_head` has to replace.

    Raises:
        InputError: the directory holds no such model.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    arguments = _arguments(path, dtype, trust_remote_code) | {"num_labels": 1}
    if load_in_4bit:
        arguments["quantization_config"] = nf4_config(dtype, skip=["score"])
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # "some weights were newly initialized" is the plan here, not news
    try:
        model = _from_pretrained(AutoModelForSequenceClassification, path, arguments)
    finally:
        transformers_logging.set_verbosity(verbosity)
    if (head := _saved_head(path)) is not None:
        model.score.weight.data = head
    return model


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside the model at `path`, with the chat template that Prepare resolved or the model brought.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no tokenizer: {_first_line(error)}", hint="the model's directory needs tokenizer.json") from error


def nf4_config(compute_dtype: torch.dtype, *, double_quant: bool = True, skip: list[str] | None = None) -> Any:
    """How bitsandbytes stores weights in 4-bit normal float (QLoRA, arXiv:2305.14314): double quantization unless told otherwise."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=skip,
    )


def read_config(path: Path) -> dict[str, Any]:
    """`config.json` of a model directory, as data: for questions that do not need transformers.

    Raises:
        InputError: it is missing or no JSON.
    """
    try:
        config: dict[str, Any] = json.loads((path / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path / 'config.json'}: not a readable model configuration: {_first_line(error)}") from error
    return config


def _saved_head(path: Path) -> torch.Tensor | None:
    """The score head as it was written, in fp32: rounding it to bf16 would undo the normalisation that is part of it (rule R5)."""
    from safetensors import safe_open

    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if "score.weight" in tensors.keys():  # noqa: SIM118 - safe_open has no __contains__
                head: torch.Tensor = tensors.get_tensor("score.weight").float()
                return head
    return None


def _arguments(path: Path, dtype: torch.dtype, trust_remote_code: bool) -> dict[str, Any]:
    _refuse_softcapping(path)
    return {
        "dtype": dtype,
        "attn_implementation": ATTENTION,
        "local_files_only": True,
        "use_safetensors": True,
        "trust_remote_code": trust_remote_code,
    }


def _refuse_softcapping(path: Path) -> None:
    """Our heads apply the output matrix in chunks (rule G9) and know no cap on logits: log-probabilities would be of another model."""
    if read_config(path).get("final_logit_softcapping"):
        raise UnsupportedError(
            f"{path / 'config.json'}: final_logit_softcapping is not supported", hint="take a model without it, e.g. Gemma 3"
        )


def _refuse_scaled_logits(model: PreTrainedModel, path: Path) -> None:
    """The same of factors (Granite's `logits_scaling`, Cohere's `logit_scale`), which have as many names as there are families.

    So the model is asked: what reaches its head must be what the backbone said, and its logits what the head said. Where the family allows,
    the backbone is played: that of a large model would take seconds.
    """
    import torch

    head: Any = model.get_output_embeddings()
    seen: list[torch.Tensor] = []
    hidden_1th = torch.linspace(-1e3, 1e3, 2 * head.in_features, device=model.device).view(1, 2, -1).to(model.dtype)
    backbone = _Backbone(hidden_1th)
    handle = head.register_forward_hook(lambda _, given, own: seen.extend((given[0], own)))
    model.base_model.forward = backbone
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device)).logits
    finally:
        del model.base_model.forward
        handle.remove()
    given, own = seen
    if not (_is_close(logits, own) and (not backbone.was_asked or _is_close(given, hidden_1th))):
        raise UnsupportedError(
            f"{path}: {type(model).__name__} scales its logits, which is not supported: training would see those of another model",
            hint="take a model whose logits are its output matrix times the hidden states, e.g. Llama, Qwen or Gemma 3",
        )


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to the rounding of bf16."""
    return float((one.float() - other.float()).abs().max()) <= 0.02 * float(other.abs().max())


class _Backbone:
    """Answers with the same hidden states whatever it is asked, and has nothing else to say."""

    def __init__(self, hidden_1th: torch.Tensor) -> None:
        self.last_hidden_state = hidden_1th
        self.was_asked = False

    def __call__(self, *_: Any, **__: Any) -> _Backbone:
        self.was_asked = True
        return self

    def __getitem__(self, place: int) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        return None


def _from_pretrained(cls: Any, path: Path, arguments: dict[str, Any]) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a progress bar in a log file is one line of a thousand returns
    # bitsandbytes warns at its import of a kernel package that nobody asked for, and for every int8 layer and forward of a cast.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        model = cls.from_pretrained(path, **arguments)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path}: not a model that transformers can load: {_first_line(error)}") from error
    return model.eval()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
