"""A pure function on two real ranks (gloo): what it returns there."""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file


def on_two_ranks(name, inputs):
    """`name` of `FUNCTIONS`, called with `inputs[rank]` on each rank; its tensors, rank by rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, args=(name, inputs, folder), nprocs=2)
        return [load_file(Path(folder) / f"{rank}.safetensors")["found"] for rank in range(2)]


def _rank(rank, name, inputs, folder):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        save_file({"found": FUNCTIONS[name](*inputs[rank])}, Path(folder) / f"{rank}.safetensors")
    finally:
        dist.destroy_process_group()


def _whiten(x, mask):
    from rlhf_trainer.rl.whitening import whiten

    return whiten(x, mask)


def _moments(first, second):
    from rlhf_trainer.rl.rewards import RunningMoments

    moments = RunningMoments()
    for scores in (first, second):
        moments.update(scores)
    return torch.tensor([moments.count, moments.mean, moments.deviation], dtype=torch.float64)


def _both(x, mask, first, second):
    return torch.cat([_whiten(x, mask).double().flatten(), _moments(first, second)])


FUNCTIONS = {"both": _both}
