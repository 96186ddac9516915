"""A model's tokenizer, read from its directory with `tokenizers` alone: transformers would cost Prepare 10 s of imports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from rlhf_trainer.data.store import file_sha256
from rlhf_trainer.data.template import NAMED, Template
from rlhf_trainer.errors import ConfigError, InputError, UnsupportedError

_CONFIG, _TOKENIZER, _TEMPLATE = "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"


@dataclass(frozen=True, slots=True, eq=False)
class ModelTokenizer:
    """Tokenizer, special tokens and sizes of one model."""

    tokenizer: Tokenizer
    bos_token: str
    eos_token: str
    pad_id: int
    eos_ids: tuple[int, ...]
    """Every id at which the model's own generation settings stop."""
    chat_template: str | None
    vocab_size: int
    """Rows of the embedding, from config.json."""
    context: int | None
    """Longest sequence that the model was made for, in tokens; None when its configuration does not say."""
    adds_bos: bool = False
    """The model was trained on texts that begin with `bos_token`: its tokenizer puts it there."""
    sha256: str = ""
    """Of tokenizer.json."""

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Token ids and character offsets. Special tokens come from the template only; a BOS that it leaves out is added here."""
        whole = [self.missing_bos(text) + text for text in texts]
        encodings: list[Encoding] = self.tokenizer.encode_batch(whole, add_special_tokens=False)
        return encodings

    def missing_bos(self, text: str) -> str:
        """What `encode` puts before the text: character offsets are counted from there."""
        return self.bos_token if self.adds_bos and not text.startswith(self.bos_token) else ""

    def template(self, name: str) -> Template:
        """The template that `spec.model.chatTemplate` names; `auto` is the one that came with the model.

        Raises:
            ConfigError: the model brings none, or the template ends a turn with a token that this tokenizer does not have.
        """
        source = self.chat_template if name == "auto" else NAMED[name]
        if source is None:
            raise ConfigError("spec.model.chatTemplate: 'auto' must find a template in the model, which has none: try chatml or plain")
        specials = tuple(token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special)
        template = Template(source, self.bos_token, self.eos_token, specials)
        try:
            _ = template.end_of_turn
        except ConfigError as error:
            raise ConfigError(error.message.replace("chatTemplate:", f"chatTemplate: {name!r}:"), hint=error.hint) from error
        return template

    def stop_ids(self, template: Template) -> tuple[int, ...]:
        """End-of-turn token of the template and the model's EOS ids (rule D4), sorted."""
        end: int = self.tokenizer.token_to_id(template.end_of_turn) or 0  # a special token of this tokenizer: it has an id
        return tuple(sorted({end, *self.eos_ids}))

    def fingerprint(self) -> str:
        """sha256 of everything that decides how a text becomes ids."""
        settings = json.dumps([self.sha256, self.bos_token, self.eos_token, self.pad_id, self.eos_ids])
        return hashlib.sha256(settings.encode()).hexdigest()

    def vocabulary(self) -> dict[str, int]:
        """Every token with its id: two models can exchange ids only when these are equal."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary


def load_tokenizer(directory: Path) -> ModelTokenizer:
    """Read `tokenizer.json` and the configuration files beside it.

    Raises:
        InputError: a file is missing or is not JSON.
        UnsupportedError: there is no `tokenizer.json`.
        ConfigError: the tokenizer has ids for which the embedding has no row (rule F5).
    """
    if not (directory / _TOKENIZER).is_file():
        raise UnsupportedError(f"{directory.name}: {_TOKENIZER} is missing: only fast tokenizers work", hint="save it with AutoTokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(directory / _TOKENIZER))
    except Exception as error:  # the Rust library raises Exception itself
        raise InputError(f"{directory.name}/{_TOKENIZER}: cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = read_json(directory / _CONFIG) if (directory / _CONFIG).is_file() else {}
    config = read_json(directory / "config.json")
    text_config = config.get("text_config") or config
    vocab_size = _whole_number(directory, text_config, "vocab_size")
    if tokenizer.get_vocab_size() > vocab_size:
        raise ConfigError(
            f"{directory.name}: the tokenizer has {tokenizer.get_vocab_size()} entries, must have at most {vocab_size}, as the embedding",
            hint="embeddings are never resized: use the tokenizer that the model was trained with",
        )
    eos_ids = _eos_ids(directory, text_config, tokenizer, settings)
    bos, eos, pad = (_token(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token"))
    pad_id = tokenizer.token_to_id(pad) if pad else None
    return ModelTokenizer(
        tokenizer=tokenizer,
        bos_token=bos,
        eos_token=eos or (tokenizer.id_to_token(eos_ids[0]) or "" if eos_ids else ""),
        pad_id=pad_id if pad_id is not None else (eos_ids[0] if eos_ids else 0),
        eos_ids=eos_ids,
        chat_template=_chat_template(directory, settings),
        vocab_size=vocab_size,
        context=text_config.get("max_position_embeddings", text_config.get("n_positions")),  # GPT-2 has a name of its own
        adds_bos=bool(bos) and tokenizer.encode("").tokens[:1] == [bos],
        sha256=file_sha256(directory / _TOKENIZER),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        InputError: it is missing, or something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path.parent.name}/{path.name}: must be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path.parent.name}/{path.name}: must be a JSON object")
    return value


def _eos_ids(directory: Path, config: Mapping[str, Any], tokenizer: Tokenizer, settings: Mapping[str, Any]) -> tuple[int, ...]:
    generation = directory / "generation_config.json"
    given = (read_json(generation).get("eos_token_id") if generation.is_file() else None) or config.get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    own = tokenizer.token_to_id(_token(settings.get("eos_token")))
    return tuple(dict.fromkeys(i for i in (own, *ids) if isinstance(i, int) and 0 <= i < tokenizer.get_vocab_size()))


def _chat_template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    if (directory / _TEMPLATE).is_file():
        return (directory / _TEMPLATE).read_text("utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, as tool-using models have
        template = next((each.get("template") for each in template if each.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _token(value: Any) -> str:
    """A special token of tokenizer_config.json: text, or an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _whole_number(directory: Path, config: Mapping[str, Any], name: str) -> int:
    if not isinstance(config.get(name), int):
        raise InputError(f"{directory.name}/config.json: {name}: {config.get(name)!r} must be a whole number")
    return int(config[name])
