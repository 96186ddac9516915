"""How fast answers are generated, against HF `generate` on the same model, prompts and lengths.

Paired runs in random order, so that a busy machine slows both; the ratio of a case is the median over the pairs, 1 means equally fast, more means
ours is faster. `fixed` answers have 64 tokens each; `stops` answers end at a stop token, as a policy's do. `--json` prints one line.

    python -m tests.bench.generate --json
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from rlhf_trainer.rollout.generate import GenerateConfig, generate

NEW_TOKENS = 64
VOCAB = 768
PAD = 0


def tiny_llama() -> Any:
    """The preset of the sample chain: 0.95 M parameters, random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    size = {"vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD}
    return LlamaForCausalLM(LlamaConfig(**size, **ids, tie_word_embeddings=True, max_position_embeddings=256)).eval()


def mixed_prompts(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded prompts of 8 to 32 tokens."""
    generator = torch.Generator().manual_seed(num_rows)
    lengths = torch.randint(8, 33, (num_rows,), generator=generator)
    mask = (torch.arange(32) >= 32 - lengths[:, None]).long()
    return torch.randint(32, VOCAB, (num_rows, 32), generator=generator) * mask, mask


def contestants(model: Any, num_rows: int, *, greedy: bool, stops: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and HF's for one case. Without stops, ours waits for a token that does not exist."""
    ids, mask = mixed_prompts(num_rows)
    stop_ids = list(range(1, 31)) if stops else [VOCAB]  # 30 of 768 near-uniform tokens: an answer has about 23 tokens
    config = GenerateConfig(max_new_tokens=NEW_TOKENS, stop_ids=tuple(stop_ids), pad_id=PAD, greedy=greedy)
    seeds = torch.arange(num_rows)
    theirs = {"max_new_tokens": NEW_TOKENS, "pad_token_id": PAD, "do_sample": not greedy}
    theirs |= {} if greedy else {"top_k": 0}
    theirs |= {"eos_token_id": stop_ids} if stops else {}
    return (
        lambda: generate(model, ids, mask, config, seeds),
        lambda: model.generate(input_ids=ids, attention_mask=mask, **theirs),
    )


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(ours: Callable[[], Any], theirs: Callable[[], Any], num_pairs: int) -> dict[str, float]:
    """Medians over paired runs, after one that warms up."""
    ours(), theirs()
    pairs = []
    for _ in range(num_pairs):
        order = [ours, theirs] if random.random() < 0.5 else [theirs, ours]
        taken = {function: seconds(function) for function in order}
        pairs.append((taken[ours], taken[theirs]))
    return {
        "ratio_to_hf": round(statistics.median(hf / own for own, hf in pairs), 3),
        "seconds": round(statistics.median(own for own, _ in pairs), 4),
        "hf_seconds": round(statistics.median(hf for _, hf in pairs), 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--pairs", type=int, default=9, help="paired runs of each case")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 64], help="batch sizes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(0)
    model, cases = tiny_llama(), {}
    for num_rows in options.rows:
        for greedy in (True, False):
            for stops in (False, True) if not greedy else (False,):
                name = f"{num_rows}-{'greedy' if greedy else 'sampled'}-{'stops' if stops else 'fixed'}"
                cases[name] = measure(*contestants(model, num_rows, greedy=greedy, stops=stops), options.pairs)
                if not options.json:
                    print(
                        f"{name:20} {cases[name]['ratio_to_hf']:6.2f} x HF   {cases[name]['seconds']:.3f} s, HF {cases[name]['hf_seconds']:.3f} s",
                        flush=True,
                    )
    if options.json:
        ratios = {name: case["ratio_to_hf"] for name, case in cases.items()}
        setup = {"new_tokens": NEW_TOKENS, "threads": options.threads, "torch": torch.__version__, "machine": platform.machine()}
        print(json.dumps({"ratio_to_hf": ratios, "cases": cases, **setup}))


if __name__ == "__main__":
    main()
