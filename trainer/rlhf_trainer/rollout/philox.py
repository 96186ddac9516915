"""Random numbers that belong to a row, not to a batch: Philox4x32-10, keyed by the row's seed (rule P14).

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives the number for (seed,
token) directly. So a row draws the same numbers in any batch, after a restart, at any number of workers and on any device,
and all rows of a step are drawn at once. One `torch.Generator` a row was rejected: a Python call for each row and token.
"""

import hashlib

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def row_seed(seed: int, step: int, prompt_id: str | int, sample_index: int = 0) -> int:
    """The seed of one answer: the same for the same job seed, rollout, prompt and sample, different otherwise. 0..2^63-1."""
    name = f"{seed}\0{step}\0{prompt_id}\0{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def uniforms(seeds_b: Tensor, num_tokens: int) -> Tensor:
    """One number in [0, 1) with 53 random bits for each row and token, fp64 (b, num_tokens). int64 seeds, on their device."""
    num_blocks = (num_tokens + 1) // 2  # a Philox block has four words: two numbers
    counter = torch.arange(num_blocks, device=seeds_b.device).expand(seeds_b.shape[0], -1)
    zeros = torch.zeros_like(counter)
    key = (seeds_b.unsqueeze(-1) & _MASK, (seeds_b.unsqueeze(-1) >> 32) & _MASK)
    words = philox((counter, zeros, zeros, zeros), key)
    pairs = torch.stack([_to_uniform(words[0], words[1]), _to_uniform(words[2], words[3])], dim=-1)
    return pairs.flatten(1)[:, :num_tokens]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 on int64 tensors that hold 32-bit words."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    # int64 wraps modulo 2^64 like an unsigned product; the mask removes what the signed shift copies down
    product = word * multiplier
    return (product >> 32) & _MASK, product & _MASK


def _to_uniform(high: Tensor, low: Tensor) -> Tensor:
    return ((high >> 5) * 2.0**26 + (low >> 6)).double() * 2.0**-53
