# SPDX-License-Identifier: Apache-2.0
"""Which model an output was made with: what is added to it must be of the same."""

import hashlib

import torch
from torch import nn


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
