# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Evaluation with several views of a video (Section 4): their scores are averaged."""

import torch
from torch import nn


@torch.no_grad()
def predict_views(model: nn.Module, pixel_values: torch.Tensor, multi_label: bool = False, **kwargs) -> torch.Tensor:
    """Scores averaged over views: `(batch, views, frames, channels, height, width) -> (batch, num_labels)`.

    All views of the batch go through the model at once. Probabilities are averaged, by softmax or, of several labels,
    by sigmoid.
    """
    num_views = pixel_values.shape[1]
    logits = model(pixel_values.flatten(0, 1), **kwargs).logits.float()
    scores = logits.sigmoid() if multi_label else logits.softmax(dim=-1)
    return scores.unflatten(0, (-1, num_views)).mean(dim=1)
