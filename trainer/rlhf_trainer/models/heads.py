"""The two modules that training wraps: a language model without visible logits, and a score model.

Shapes: b rows, t positions of the whole row, r response positions, h hidden, v vocabulary. `attention_mask` is (b, t) or, for packed rows,
boolean (b, 1, t, t). Everything that touches a parameter happens inside `forward`: strategies that shard or reduce hook into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rlhf_trainer.rl.chunks import Head

T = TypeVar("T")


class LanguageModel(nn.Module):
    """A causal language model that hands hidden states and its head to a function instead of returning logits.

    Logits of a whole batch are the largest tensor of a step (rule G9). `lm_loss` and `token_logprobs` apply the head a chunk
    at a time, and must do so inside `forward`.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf: Any = hf

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, on_hidden: Callable[[Tensor, Head], T]) -> T:
        """`on_hidden(hidden_bth, head)`, where `head` turns hidden states (n, h) into logits (n, v)."""
        hidden_bth = hidden_states(self.hf, input_ids, attention_mask, position_ids)
        return on_hidden(hidden_bth, self.hf.get_output_embeddings())


class ScoreModel(nn.Module):
    """A backbone with a scalar head at every position: reward model (read at the last token) and critic (read at all).

    `hf` is the `…ForSequenceClassification` of transformers, so that exports reload there (rule R2). Its own forward is not used:
    it looks for the last token by the padding id, ours goes by the mask (rule R1).
    """

    generates = False
    """Whole rows pass at once: no strategy needs a copy that is fast at one token a time (rule T9)."""

    def __init__(self, hf: PreTrainedModel, *, mean: float = 0.0) -> None:
        super().__init__()
        self.hf: Any = hf
        self.mean = mean
        """Subtracted from every score. With the scale inside the head this is rule R5; a fresh model has 0."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Scores of every prefix (b, t), fp32."""
        hidden_bth = hidden_states(self.hf, input_ids, attention_mask, position_ids)
        # fp32 from the head on (rules R3, P20): the difference of two bf16 scores has two digits
        scores_bt1 = nn.functional.linear(hidden_bth.float(), self.hf.score.weight.float())
        return scores_bt1.squeeze(-1) - self.mean


def hidden_states(hf: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
    """Last hidden states (b, t, h), after the final norm. Works for language and score models, with and without adapters."""
    mask = packed_masks(hf.config, attention_mask) if attention_mask.dim() == 4 else attention_mask
    output = hf.base_model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, use_cache=False)
    hidden_bth: Tensor = output.last_hidden_state
    return hidden_bth


def packed_masks(config: Any, mask_b1tt: Tensor) -> Tensor | dict[str, Tensor]:
    """The 4-D mask of packed rows, narrowed for layers with a sliding window: transformers takes a 4-D mask as it is."""
    window = getattr(config, "sliding_window", None)
    if not window:
        return mask_b1tt
    places = torch.arange(mask_b1tt.shape[-1], device=mask_b1tt.device)
    narrow_b1tt: Tensor = mask_b1tt & (places[:, None] - places[None, :] < window)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return narrow_b1tt  # Mistral: every layer slides
    return {"full_attention": mask_b1tt, "sliding_attention": narrow_b1tt} if "sliding_attention" in kinds else mask_b1tt


def last_token(values_bt: Tensor, attention_mask_bt: Tensor) -> Tensor:
    """The value at the last real token of each row (b,), by the mask: the padding id may well be the end token (rule R1).

    [[1, 1, 0], [0, 1, 1]] reads columns [1, 2]
    """
    columns = torch.arange(attention_mask_bt.shape[1], device=attention_mask_bt.device)
    last_b = torch.where(attention_mask_bt.bool(), columns, 0).amax(dim=1)
    return values_bt.gather(1, last_b.unsqueeze(1)).squeeze(1)


def new_head(hf: PreTrainedModel, seed: int) -> None:
    """Give a score model a fresh head, N(0, 1/√(h+1)) (Stiennon et al. 2020, arXiv:2009.01325, appendix B.1), from the seed."""
    weight = hf.score.weight
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[1] + 1))


def zero_head(hf: PreTrainedModel) -> None:
    """Give a score model a head of zeros: a critic that starts from a language model (rule P10) first predicts nothing."""
    with torch.no_grad():
        hf.score.weight.zero_()


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch every dropout off for good, in modules and in the fields that attention reads (rules R4, P6). Returns the model.

    Eval mode would do that too, and switch gradient checkpointing off with it.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def checkpoint_activations(hf: PreTrainedModel) -> None:
    """Recompute activations in the backward pass (`gradientCheckpointing`)."""
    hf.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
