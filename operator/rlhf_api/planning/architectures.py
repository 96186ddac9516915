"""Shapes of known models: a name, a source or a size in, exact parameter counts out.

The planner needs layers, widths and heads; a job file has `model.size: 7B` and a source. A source whose last path segment names a known
model gets that model's exact shape. Any other gets the shape of the known model nearest in size, counted with the size the user stated:
the plan is made before anything is downloaded, and says so.
"""

import math
import re
from dataclasses import dataclass, replace
from enum import StrEnum


class Family(StrEnum):
    """How a decoder is built; decides which weights a layer has."""

    GPT2 = "gpt2"
    OPT = "opt"
    LLAMA = "llama"
    QWEN2 = "qwen2"
    GEMMA3 = "gemma3"


LEARNED_POSITIONS = {Family.GPT2: 0, Family.OPT: 2}
"""Families with a table of positions, and how many rows it has beyond the context (OPT keeps two for padding)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a decoder. Sizes are in elements; `context` is in tokens."""

    name: str
    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    context: int
    has_tied_head: bool
    embedding_size: int
    """Width of the token embedding; only OPT-350m has another one than `hidden_size`, with two projections between them."""
    stated_parameters: int | None = None
    """What the user said; replaces the count where the shape is only the nearest known one."""

    @property
    def is_gated(self) -> bool:
        """True when the MLP multiplies two projections (Llama and its kin), which costs a third matrix and one more activation."""
        return self.family not in LEARNED_POSITIONS

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of one decoder layer, under the names that LoRA's `targetModules` use."""
        h, mlp = self.hidden_size, self.intermediate_size
        queries, keys = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        if self.family is Family.GPT2:
            return {"c_attn": (h, 3 * h), "attn.c_proj": (h, h), "c_fc": (h, mlp), "mlp.c_proj": (mlp, h)}
        attention = {"q_proj": (h, queries), "k_proj": (h, keys), "v_proj": (h, keys)}
        if self.family is Family.OPT:
            return attention | {"out_proj": (queries, h), "fc1": (h, mlp), "fc2": (mlp, h)}
        return attention | {"o_proj": (queries, h), "gate_proj": (h, mlp), "up_proj": (h, mlp), "down_proj": (mlp, h)}

    @property
    def num_linear_parameters(self) -> int:
        """Weights of all decoder layers' matrices: what quantization makes smaller."""
        if self.stated_parameters is not None:
            return self.stated_parameters - self.num_embedding_parameters
        return self.num_layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def num_embedding_parameters(self) -> int:
        """Token embedding, and the output head where it has weights of its own."""
        return self.vocab_size * self.embedding_size * (1 if self.has_tied_head else 2)

    @property
    def num_layer_parameters(self) -> int:
        """One decoder layer with its biases and norms."""
        h, queries, keys = self.hidden_size, self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        small = {
            Family.GPT2: 13 * h,  # biases 9h, two norms with bias 4h
            Family.OPT: 13 * h,
            Family.LLAMA: 2 * h,
            Family.QWEN2: 2 * h + queries + 2 * keys,  # biases of query, key and value
            Family.GEMMA3: 4 * h + 2 * self.head_size,  # norms before and after each part, and of query and key
        }[self.family]
        return sum(inputs * outputs for inputs, outputs in self.linears.values()) + small

    @property
    def num_parameters(self) -> int:
        """All parameters: exactly the count of the transformers class, or the size the user stated."""
        if self.stated_parameters is not None:
            return self.stated_parameters
        h = self.hidden_size
        positions = (self.context + LEARNED_POSITIONS[self.family]) * h if self.family in LEARNED_POSITIONS else 0
        projections = 2 * self.embedding_size * h if self.embedding_size != h else 0
        final_norm = 0 if projections else (2 * h if self.family in LEARNED_POSITIONS else h)
        return self.num_embedding_parameters + positions + projections + self.num_layers * self.num_layer_parameters + final_norm

    @property
    def kv_elements_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size


def _gpt2(name: str, hidden: int, layers: int, heads: int, context: int = 1024) -> Architecture:
    return _classic(Family.GPT2, name, hidden, layers, heads, vocab=50257, context=context)


def _opt(name: str, hidden: int, layers: int, heads: int, embedding: int | None = None) -> Architecture:
    return _classic(Family.OPT, name, hidden, layers, heads, vocab=50272, context=2048, embedding=embedding)


def _classic(
    family: Family, name: str, hidden: int, layers: int, heads: int, *, vocab: int, context: int, embedding: int | None = None
) -> Architecture:
    return Architecture(
        name=f"{family}-{name}", family=family, vocab_size=vocab, hidden_size=hidden, intermediate_size=4 * hidden, num_layers=layers,
        num_heads=heads, num_kv_heads=heads, head_size=hidden // heads, context=context, has_tied_head=True,
        embedding_size=embedding or hidden,
    )  # fmt: skip


def _llama(
    name: str, vocab: int, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, *, context: int, tied: bool = False,
    head_size: int | None = None, family: Family = Family.LLAMA,
) -> Architecture:  # fmt: skip
    return Architecture(
        name=name, family=family, vocab_size=vocab, hidden_size=hidden, intermediate_size=mlp, num_layers=layers, num_heads=heads,
        num_kv_heads=kv_heads, head_size=head_size or hidden // heads, context=context, has_tied_head=tied, embedding_size=hidden,
    )  # fmt: skip


def _qwen2(name: str, vocab: int, hidden: int, mlp: int, layers: int, heads: int, kv_heads: int, tied: bool = False) -> Architecture:
    return _llama(f"qwen2.5-{name}", vocab, hidden, mlp, layers, heads, kv_heads, context=32768, tied=tied, family=Family.QWEN2)


TINY_LLAMA = _llama("tiny-llama", 768, 128, 384, 4, 4, 4, context=256, tied=True)
"""The preset `builtin://models/tiny-llama`: small enough for two CPU cores, large enough to learn the built-in data."""

KNOWN: dict[str, Architecture] = {
    shape.name: shape
    for shape in (
        TINY_LLAMA,
        _gpt2("s", 768, 12, 12), _gpt2("m", 1024, 24, 16), _gpt2("l", 1280, 36, 20), _gpt2("xl", 1600, 48, 25),
        _gpt2("2b", 2048, 40, 16), _gpt2("4b", 2304, 64, 16), _gpt2("6b", 4096, 30, 16), _gpt2("8b", 4096, 40, 16),
        _gpt2("10b", 4096, 50, 16), _gpt2("12b", 4096, 60, 16), _gpt2("15b", 4096, 78, 16), _gpt2("18b", 4096, 90, 16),
        _gpt2("20b", 8192, 25, 16), _gpt2("24b", 8192, 30, 16), _gpt2("28b", 8192, 35, 16), _gpt2("32b", 8192, 40, 16),
        _gpt2("36b", 8192, 45, 16), _gpt2("40b", 8192, 50, 16), _gpt2("175b", 12288, 96, 96, context=2048),
        _opt("125m", 768, 12, 12), _opt("350m", 1024, 24, 16, embedding=512), _opt("1.3b", 2048, 24, 32),
        _opt("2.7b", 2560, 32, 32), _opt("6.7b", 4096, 32, 32), _opt("13b", 5120, 40, 40),
        _llama("llama-7b", 32000, 4096, 11008, 32, 32, 32, context=2048), _llama("llama-13b", 32000, 5120, 13824, 40, 40, 40, context=2048),
        _llama("llama-30b", 32000, 6656, 17920, 60, 52, 52, context=2048),
        _llama("llama-65b", 32000, 8192, 22016, 80, 64, 64, context=2048),
        _llama("llama-3-8b", 128256, 4096, 14336, 32, 32, 8, context=8192),
        _llama("llama-3-70b", 128256, 8192, 28672, 80, 64, 8, context=8192),
        _qwen2("0.5b", 151936, 896, 4864, 24, 14, 2, tied=True), _qwen2("1.5b", 151936, 1536, 8960, 28, 12, 2, tied=True),
        _qwen2("3b", 151936, 2048, 11008, 36, 16, 2, tied=True), _qwen2("7b", 152064, 3584, 18944, 28, 28, 4),
        _qwen2("14b", 152064, 5120, 13824, 48, 40, 8), _qwen2("32b", 152064, 5120, 27648, 64, 40, 8),
        _qwen2("72b", 152064, 8192, 29568, 80, 64, 8),
        _llama("gemma-3-270m", 262144, 640, 2048, 18, 4, 1, context=32768, tied=True, head_size=256, family=Family.GEMMA3),
    )
}  # fmt: skip
"""Every model whose parameter count is known exactly, by name."""

ALIASES = {"gpt2": "gpt2-s", "gpt2-medium": "gpt2-m", "gpt2-large": "gpt2-l", "llama-33b": "llama-30b", "gemma3-270m": "gemma-3-270m"}
"""Other names under which hubs keep the same shapes."""

_VARIANT = re.compile(r"-(hf|base|instruct|chat|it|pt)$")


def named(name: str) -> Architecture | None:
    """The known model of this name, or None. Case, a `meta-` in front and variants such as `-instruct` do not matter."""
    plain = name.lower().removeprefix("meta-")
    while _VARIANT.search(plain):
        plain = _VARIANT.sub("", plain)
    return KNOWN.get(ALIASES.get(plain, plain))


def parameters_of_size(size: str) -> int:
    """The number that `spec.model.size` states. 7B -> 7000000000, 350M -> 350000000.

    Raises:
        ValueError: the text is no model size. `validate.find_problems` refuses it with its field.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([MB])", size)
    if match is None:
        raise ValueError(f"{size!r} is no model size such as 7B or 350M")
    return round(float(match[1]) * {"M": 10**6, "B": 10**9}[match[2]])


def nearest(num_parameters: int) -> Architecture:
    """The known model nearest in size (as a ratio), counted with the number of parameters asked for."""
    closest = min(KNOWN.values(), key=lambda shape: abs(math.log(max(num_parameters, 1) / shape.num_parameters)))
    return replace(closest, stated_parameters=num_parameters)


def shape_of(name_or_size: str) -> Architecture:
    """The shape of a model by name (`gpt2-xl`) or by size (`7B`).

    Raises:
        ValueError: it is neither a known name nor a size.
    """
    return named(name_or_size) or nearest(parameters_of_size(name_or_size))


def shape_of_source(uri: str, size: str | None) -> Architecture | None:
    """The shape of the model at a source: by the last segment of its path, else by the stated size; None when neither tells."""
    last_segment = uri.split("@")[0].rstrip("/").rsplit("/", 1)[-1]
    known = named(last_segment)
    if known is not None or size is None:
        return known
    return nearest(parameters_of_size(size))
