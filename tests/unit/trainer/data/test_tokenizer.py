"""A model's tokenizer files, as Prepare reads them without transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_trainer.data.tokenizer import load_tokenizer
from rlhf_trainer.errors import ConfigError, InputError, StageError, UnsupportedError
from rlhf_trainer.models.presets import write_preset


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_preset("tiny-llama", 0, tmp_path)
    return tmp_path


def change(model: Path, name: str, **fields: Any) -> None:
    file = model / name
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_everything_that_prepare_needs_is_read(model: Path) -> None:
    found = load_tokenizer(model)
    assert (found.bos_token, found.eos_token, found.pad_id, found.eos_ids) == ("<s>", "</s>", 0, (2,))
    assert (found.vocab_size, found.context) == (768, 256)
    assert found.template("auto").end_of_turn == "</s>"
    assert found.stop_ids(found.template("auto")) == (2,)


def test_the_context_of_gpt2_has_a_name_of_its_own(model: Path) -> None:
    change(model, "config.json", max_position_embeddings=None, n_positions=1024)
    assert load_tokenizer(model).context == 1024


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        pytest.param(lambda m: (m / "tokenizer.json").unlink(), UnsupportedError, "only fast tokenizers work", id="no tokenizer.json"),
        pytest.param(
            lambda m: (m / "tokenizer.json").write_text("{"), InputError, "tokenizer.json: cannot be read", id="a broken tokenizer"
        ),
        pytest.param(
            lambda m: (m / "config.json").write_text("[]"), InputError, "config.json: must be a JSON object", id="a list as config"
        ),
        pytest.param(lambda m: (m / "config.json").unlink(), InputError, "config.json: must be a JSON object", id="no config"),
        pytest.param(lambda m: change(m, "config.json", vocab_size=None), InputError, "vocab_size: None must be", id="no vocabulary size"),
        pytest.param(
            lambda m: change(m, "config.json", vocab_size=700), ConfigError, "must have at most 700", id="fewer rows than entries"
        ),
    ],
)
@pytest.mark.rule("F5")
def test_a_model_that_cannot_be_used_is_refused(
    model: Path, broken: Callable[[Path], object], error: type[StageError], message: str
) -> None:
    broken(model)
    with pytest.raises(error, match=message):
        load_tokenizer(model)


def test_the_stop_ids_of_the_generation_settings_count(model: Path) -> None:
    change(model, "generation_config.json", eos_token_id=[2, 4, 99999])
    assert load_tokenizer(model).eos_ids == (2, 4)


def test_without_a_pad_token_the_eos_pads(model: Path) -> None:
    change(model, "tokenizer_config.json", pad_token=None, eos_token={"content": "</s>", "lstrip": False})
    found = load_tokenizer(model)
    assert (found.pad_id, found.eos_token) == (2, "</s>")


def test_sizes_may_lie_in_the_text_part_of_a_configuration(model: Path) -> None:
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({"text_config": content}))
    assert load_tokenizer(model).vocab_size == 768


@pytest.mark.parametrize(
    ("settings", "file", "expected"),
    [
        pytest.param({"chat_template": "a"}, None, "a", id="in tokenizer_config.json"),
        pytest.param(
            {"chat_template": [{"name": "tool", "template": "b"}, {"name": "default", "template": "a"}]}, None, "a", id="one of several"
        ),
        pytest.param({"chat_template": "b"}, "a", "a", id="in a file of its own"),
        pytest.param({"chat_template": None}, None, None, id="none"),
    ],
)
def test_the_template_is_found(model: Path, settings: dict[str, Any], file: str | None, expected: str | None) -> None:
    change(model, "tokenizer_config.json", **settings)
    if file is not None:
        (model / "chat_template.jinja").write_text(file)
    assert load_tokenizer(model).chat_template == expected


def test_auto_needs_a_template(model: Path) -> None:
    change(model, "tokenizer_config.json", chat_template=None)
    with pytest.raises(ConfigError, match="'auto' must find a template in the model, which has none: try chatml or plain"):
        load_tokenizer(model).template("auto")


def test_a_template_whose_markers_the_model_lacks_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"chatTemplate: 'chatml': .* must write a special token of the tokenizer: try plain"):
        load_tokenizer(model).template("chatml")
    assert load_tokenizer(model).template("plain").end_of_turn == "</s>"


def test_the_fingerprint_follows_what_decides_the_ids(model: Path) -> None:
    first = load_tokenizer(model).fingerprint()
    assert load_tokenizer(model).fingerprint() == first
    change(model, "tokenizer_config.json", bos_token=None)
    assert load_tokenizer(model).fingerprint() != first
