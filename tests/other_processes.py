"""Training in processes of its own, for test_train.py. They are forked from one that has imported the package."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator

from taste_min.cli import main
from taste_min.config import tiny
from taste_min.quantizer import ResidualVQ
from taste_min.train import Run


def run_apart(function, *arguments) -> multiprocessing.Process:
    """A process that runs one of the functions below."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["taste_min.cli", "taste_min.train"])
    process = context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def sleep_at(step: int, out: Path, command: list[str]) -> None:
    """Train until that step and stay there: on a busy machine the kill comes late, and the run must not be over."""
    torch.set_num_threads(1)
    train_step = Run.train_step

    def step_or_sleep(run):
        if run.step == step:
            time.sleep(600)
        return train_step(run)

    Run.train_step = step_or_sleep
    main([*command, "--out", str(out)])


def train_as_one_of_two(rank: int, port: int, data: Path, out: Path, init: Path) -> None:
    """A run, a sharded run that is stopped at step 5 and continued, and codebooks that move with half of the rows."""
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    Accelerator(cpu=True)
    command = ["train", "no_vq", "--preset", "tiny", "--data", str(data), "--init", str(init), "--out"]
    assert main([*command, str(out / "no_vq")]) == 0
    train_step = Run.train_step

    def stop_at_five(run):
        if run.step == 5:
            raise KeyboardInterrupt
        return train_step(run)

    Run.train_step = stop_at_five
    try:
        main([*command, str(out / "sharded"), "--shard"])
    except KeyboardInterrupt:
        Run.train_step = train_step
    assert main([*command, str(out / "sharded"), "--shard", "--resume"]) == 0

    torch.manual_seed(0)
    rows = torch.randn(6, 20, 32)
    quantizer = ResidualVQ(replace(tiny().rvq, quantizer_dropout=False)).train()
    with torch.no_grad():
        for parameter in quantizer.parameters():
            dist.broadcast(parameter, src=0)
        for n in range(3):
            quantizer(rows[rank::2] * (1 + n))
            torch.save(quantizer.state_dict(), out / f"{'last' if n else 'first'}{rank}.pt")
