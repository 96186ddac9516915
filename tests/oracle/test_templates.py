"""A2: Prepare renders and tokenises without transformers what transformers would, and the sample model is one that it loads."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_trainer.data.formats import Message
from rlhf_trainer.data.template import NAMED
from rlhf_trainer.data.tokenizer import ModelTokenizer, load_tokenizer
from rlhf_trainer.models.presets import write_preset

MARKERS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATS = {
    "one question": [Message("user", "3加4是几?")],
    "one round": [Message("user", "What is 3 plus 4?"), Message("assistant", "7")],
    "two rounds": [Message("user", " Hi "), Message("assistant", ""), Message("user", "红色\n"), Message("assistant", "red")],
    "a system turn": [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_preset("tiny-llama", 0, directory)
    return directory


@pytest.fixture(scope="module")
def theirs(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def ours(model: Path) -> ModelTokenizer:
    found = load_tokenizer(model)
    found.tokenizer.add_special_tokens(MARKERS)
    return found


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
@pytest.mark.parametrize("name", ["auto", *NAMED])
def test_templates_render_as_in_transformers(ours: ModelTokenizer, theirs: Any, name: str, chat: list[Message]) -> None:
    template = ours.template(name)
    turns = [{"role": message.role, "content": message.content} for message in chat]
    for generation in (False, True):
        expected = theirs.apply_chat_template(turns, chat_template=template.source, tokenize=False, add_generation_prompt=generation)
        assert template.render(chat, add_generation_prompt=generation) == expected


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
@pytest.mark.rule("D2", source="transformers: apply_chat_template")
def test_tokens_are_those_of_transformers(model: Path, theirs: Any, chat: list[Message]) -> None:
    plain = load_tokenizer(model)
    text = plain.template("auto").render(chat)
    [encoding] = plain.encode([text])
    assert encoding.ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert theirs.decode(encoding.ids) == text


def test_special_tokens_and_sizes_agree(model: Path, theirs: Any) -> None:
    plain = load_tokenizer(model)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token_id) == (plain.bos_token, plain.eos_token, plain.pad_id)
    assert len(theirs) == plain.vocab_size == 768


def test_the_sample_model_loads_without_a_missing_weight(model: Path) -> None:
    from transformers import AutoModelForCausalLM

    hf, report = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(parameter.numel() for parameter in hf.parameters()) == 951_424
    assert hf.generation_config.eos_token_id == 2
    with torch.no_grad():
        loss = hf(input_ids=torch.arange(5, 37)[None], labels=torch.arange(5, 37)[None]).loss
    assert 6.0 < float(loss) < 8.0  # about ln 768: it knows nothing yet
