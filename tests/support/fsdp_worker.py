# SPDX-License-Identifier: Apache-2.0
"""One process of two that train a sharded model (FSDP2) and compare it with the whole one; run by torchrun."""

import copy
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.support.tiny import randomize, tiny_config
from tubevit_hf import TubeViTForVideoClassification


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for settings in (
        {},
        {"tube_kernels": "interpolated", "position_embedding_type": "pretrained", "freeze_before": 1},
    ):
        compare(mesh, **settings)
    dist.barrier()
    # all have compared and agreed; gloo's threads sometimes abort a process that tears them down
    os._exit(0)


def compare(mesh: DeviceMesh, **settings: object) -> None:
    """Trains both models for three steps. Frozen weights are exchanged before the last: what was computed of the first
    must not be used with the others."""
    config = tiny_config(gate_layer=1, num_labels=5, problem_type="single_label_classification", **settings)
    whole = randomize(TubeViTForVideoClassification(config), std=0.2).train()
    sharded = copy.deepcopy(whole)
    for module in sharded.modules():
        if type(module).__name__ in sharded._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(sharded, mesh=mesh)

    torch.manual_seed(0)
    pixel_values, labels = torch.randn(4, 7, 3, 40, 56), torch.tensor([0, 4, 2, 1])
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    for model, rows in ((whole, slice(None)), (sharded, mine)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            if step == 2:
                halve_frozen(model)
            model(pixel_values[rows], labels=labels[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    shards = dict(sharded.named_parameters())
    assert any(shards[name].to_local().numel() < parameter.numel() for name, parameter in whole.named_parameters())
    for name, parameter in whole.named_parameters():
        # three steps of SGD in float32, sums in another order
        difference = (shards[name].full_tensor() - parameter).abs().max()
        assert difference <= 1e-5, (name, difference)


@torch.no_grad()
def halve_frozen(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        if not parameter.requires_grad:
            (parameter.to_local() if isinstance(parameter, DTensor) else parameter).mul_(0.5)


if __name__ == "__main__":
    main()
