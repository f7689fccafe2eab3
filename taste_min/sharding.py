"""Training whose weights, gradients and optimiser states are spread over the processes: FSDP (paper section 4.1).

Every layer of the transformers is gathered when it computes and given back afterwards; the rest of the objective is one
more group. A checkpoint is a folder to which every process writes its own share; any number of processes may read it,
so a run can go on with more or fewer of them.
"""

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict as set_optimizer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from .aggregator import AggregatorLayer
from .errors import TasteError
from .files import write_whole
from .released_files import unpickle
from .transformer import Block

LAYERS = (AggregatorLayer, Block, LlamaDecoderLayer)
POSITION = "position.json"  # what is not a tensor


def shard(objective: nn.Module, device: torch.device, n_processes: int) -> None:
    """Spread the parameters of an objective over all processes, in place. Call it before optimisers are made.

    Raises TasteError when there is one process only, or an objective with two optimisers.
    """
    if n_processes == 1:
        raise TasteError("--shard needs several processes; start them with accelerate launch or torchrun.")
    if len(objective.parts) > 1:
        raise TasteError("a stage with discriminators is small and has two optimisers; train it without --shard.")
    mesh = init_device_mesh(device.type, (n_processes,))
    for module in objective.modules():
        if isinstance(module, LAYERS):
            fully_shard(module, mesh=mesh)
    fully_shard(objective, mesh=mesh, reshard_after_forward=True)  # nothing follows an evaluation that would do it
    for method in ("loss", "evaluate", "prepare", "finish"):
        register_fsdp_forward_method(objective, method)


def whole_weights(objective: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with whole tensors on the CPU; all processes take part, the first one gets it."""
    return get_model_state_dict(objective, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def save(folder: Path, run, position: dict) -> None:
    """Write the state of a sharded run; the folder is replaced when all shares are there. At any moment one of the two
    is whole, see `settle`. Raises TasteError when there is no room for it."""
    partial, main = _partial(folder), run.accelerator.is_main_process
    if main:
        shutil.rmtree(partial, ignore_errors=True)
    run.accelerator.wait_for_everyone()
    try:
        dcp.save(_state(run), checkpoint_id=partial)  # waits for all processes
    except CheckpointException as error:
        raise TasteError(f"{partial} cannot be written; make room on the disk and continue with --resume.") from error
    if main:
        write_whole(partial / POSITION, json.dumps(position))
        shutil.rmtree(folder, ignore_errors=True)
        settle(folder)
    run.accelerator.wait_for_everyone()


def settle(folder: Path) -> bool:
    """Finish what a killed `save` may have left: give a whole checkpoint its name. Returns whether there is one."""
    partial = _partial(folder)
    if (partial / POSITION).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # older, or half removed
        with suppress(FileNotFoundError):  # another process was faster
            partial.replace(folder)
    return folder.is_dir()


def restore(folder: Path, run) -> None:
    """Read the tensors of `save` into a sharded run."""
    state = _state(run)
    dcp.load(state, checkpoint_id=folder)
    run.objective.load_state_dict(state["objective"])
    for name, optimizer in run.optimizers.items():
        set_optimizer(run.objective, optimizer, state["optimizers"][name])
    run.ema = state["ema"]


def read_position(folder: Path) -> dict:
    """Identity, step and seconds of a checkpoint. Raises TasteError when they are damaged."""
    try:
        return json.loads((folder / POSITION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TasteError(f"{folder} is not a whole checkpoint; train that stage again.") from error


def read_whole(folder: Path) -> dict:
    """The state in one piece, as a run that is not sharded keeps it."""
    with tempfile.TemporaryDirectory() as scratch:
        dcp_to_torch_save(folder, f"{scratch}/whole.pt")
        return {"ema": {}} | read_position(folder) | unpickle(Path(scratch) / "whole.pt")


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.part")


def _state(run) -> dict:
    for module in run.objective.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # torch 2.7 leaves the outermost whole after an evaluation, unlike what optimisers know
    optimizers = {name: get_optimizer_state_dict(run.objective, one) for name, one in run.optimizers.items()}
    return {"objective": run.objective.state_dict(), "optimizers": optimizers, "ema": run.ema}
