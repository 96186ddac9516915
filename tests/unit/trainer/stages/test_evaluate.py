"""The examiner's generation: smaller batches and shorter contexts. What it makes of the answers is in test_parts.py and test_training.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf_trainer.data.rows import ConversationRow
from rlhf_trainer.rollout import limits
from rlhf_trainer.stages.evaluate import Decoder, Examiner
from rlhf_trainer.strategy.world import World
from tests.support.training import PAD, STOP, VOCABULARY, a_llama, conversations, write_model

CONTEXT = 64


def an_examiner(directory: Path, rows: list[ConversationRow], *, max_new_tokens: int) -> Examiner:
    return Examiner(
        rows=rows,
        decoder=Decoder(write_model(a_llama(), directory), (STOP,)),
        stop_ids=(STOP,),
        pad_id=PAD,
        max_new_tokens=max_new_tokens,
        seed=0,
        world=World(0, 1, torch.device("cpu")),
    )


def a_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT, **ids)).eval()


def with_prompt(row: ConversationRow, num_tokens: int) -> ConversationRow:
    return replace(row, prompt_ids=np.resize(row.prompt_ids, num_tokens))


@pytest.mark.rule("G8")
def test_rows_that_do_not_fit_the_cache_wait_and_answer_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 layers x 2 heads x 8 numbers x (keys, values) x 4 bytes = 256 bytes a token; the longest prompt has 7 of them."""
    examiner, model = an_examiner(tmp_path, conversations(12), max_new_tokens=9), a_llama()
    num_rows: list[int] = []
    model.register_forward_pre_hook(lambda _, __, kwargs: num_rows.append(len(kwargs["input_ids"])), with_kwargs=True)

    def measured() -> tuple[dict[str, float], list[list[int]], int]:
        num_rows.clear()
        metrics = examiner.measure(model)
        return metrics, [answer.ids for answer in examiner.answers(model, examiner.rows, greedy=False)], max(num_rows)

    *wanted, at_once = measured()
    monkeypatch.setattr(limits, "CACHE_BYTES", 3 * 256 * (7 + 9))
    *found, at_once_now = measured()
    assert (at_once, at_once_now) == (48, 3)
    assert found == wanted


@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "sampled"])
def test_an_answer_ends_where_the_context_of_the_model_does(tmp_path: Path, greedy: bool) -> None:
    """Learned positions have no entry behind it. A prompt that leaves no room has an empty answer, which never counts as ended."""
    rows = [with_prompt(row, length) for row, length in zip(conversations(4), (60, 5, CONTEXT, CONTEXT + 6), strict=True)]
    examiner, model = replace(an_examiner(tmp_path, rows, max_new_tokens=30), stop_ids=(VOCABULARY,)), a_gpt2()  # it never stops
    found = examiner.answers(model, rows, greedy=greedy)[:: 1 if greedy else examiner.max_samples]
    assert [len(answer.ids) for answer in found] == [4, 30, 0, 0]
    assert not any(answer.has_stop for answer in found)
    assert examiner.measure(model) == {
        "eos_fraction": 0.0,
        "exact_match": 0.0,
        "exact_match_en": 0.0,
        "exact_match_zh": 0.0,
        "exact_match_sampled": 0.0,
        "refusal_fraction": 0.0,
    }
