# SPDX-License-Identifier: Apache-2.0
"""The model card of a TubeViT checkpoint: licence, citation, how to load it, and numbers that were measured."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_tubevit import TubeViTConfig


# Jinja template; the numbers come from the model itself and from an evaluation, never from here
TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

A [TubeViT](https://arxiv.org/abs/2212.03229) (Sparse Video Tubes): one plain ViT encoder for videos and images.
{{ num_parameters }} parameters, {{ config.num_hidden_layers }} layers of width {{ config.hidden_size }}. A clip of
{{ size[0] }} frames of {{ size[1] }}x{{ size[2] }} pixels becomes {{ config.num_tokens() }} tokens.

```python
from transformers import pipeline

classify = pipeline("video-classification", model="{{ model_name }}", trust_remote_code=True)
print(classify("clip.mp4"))
```

`trust_remote_code=True` is not needed where `tubevit_hf` is installed and imported.

## Evaluation

{% if metrics -%}
Measured{{ " on " ~ dataset if dataset }}{{ ". " ~ split if split else ":" }}

| metric | value |{{ " 95% interval |" if intervals }}
|---|---|{{ "---|" if intervals }}
{%- for name, value in metrics.items() %}
| {{ name }} | {{ value }} |{{ " " ~ intervals.get(name, "") ~ " |" if intervals }}
{%- endfor %}
{%- else -%}
No evaluation was recorded with this checkpoint.
{%- endif %}
{%- if limits %}

## Limits
{% for limit in limits %}
- {{ limit }}
{%- endfor %}
{%- endif %}
{%- if environment %}

## Environment

| | |
|---|---|
{%- for name, value in environment.items() %}
| {{ name }} | {{ value }} |
{%- endfor %}
{%- endif %}
{%- if details %}

{{ details }}
{%- endif %}

## Citation

```bibtex
@inproceedings{piergiovanni2023rethinking,
  title     = {Rethinking Video ViTs: Sparse Video Tubes for Joint Image and Video Learning},
  author    = {Piergiovanni, AJ and Kuo, Weicheng and Angelova, Anelia},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2023}
}
```
"""

# at the end of a card: that it is as it was written here
MARK = "<!-- tubevit_hf wrote this card; changed by hand it is kept as it is. sha256: {} -->"


def create_model_card(
    config: TubeViTConfig,
    model_name: str,
    num_parameters: int,
    metrics: dict[str, float] | None = None,
    dataset: str | None = None,
    tags: Sequence[str] = (),
    intervals: Mapping[str, tuple[float, float]] | None = None,
    split: str | None = None,
    limits: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    details: str = "",
    data: Mapping[str, Any] | None = None,
) -> ModelCard:
    """Writes a model card.

    Args:
        config: the model's configuration.
        model_name: name of the repository, organization included, or of the folder: what `from_pretrained` takes.
        num_parameters: number of the model's parameters.
        metrics: what an evaluation measured, by name; `None` where nothing was.
        dataset: name of the dataset that they were measured on.
        tags: tags beside those of every TubeViT.
        intervals: of metrics, between which bounds they lie with 95% confidence.
        split: in a sentence, which videos were measured.
        limits: what the numbers do not show, a sentence each.
        environment: what they were measured on and with, by name.
        details: sections of its own, in Markdown, before the citation.
        data: fields of the card's header, such as `license` or `language`, instead of ours or beside them.
    """
    title = model_name.split("/")[-1]
    # YAML would write a NumPy number as code
    metrics = {name: float(value) for name, value in (metrics or {}).items()}
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type="custom",
            dataset_name=dataset or "evaluation set",
            metric_type=name,
            metric_value=value,
        )
        for name, value in metrics.items()
    ]
    fields: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "video-classification",
        "tags": list(dict.fromkeys(["tubevit", "video-classification", "image-classification", *tags])),
        "model_name": title if results else None,
        "eval_results": results or None,
    }
    card_data = ModelCardData(**{**fields, **(data or {})})
    card = ModelCard.from_template(
        card_data,
        template_str=TEMPLATE,
        title=title,
        model_name=model_name,
        num_parameters=f"{num_parameters:,}",
        config=config,
        size=config.native_size,
        metrics={name: f"{value:.4g}" for name, value in metrics.items()},
        dataset=dataset,
        intervals={name: f"{low:.4g} to {high:.4g}" for name, (low, high) in (intervals or {}).items()},
        split=split,
        limits=[" ".join(limit.split()) for limit in limits],
        environment=environment,
        details=details.strip(),
    )
    return ModelCard(f"{card.content.rstrip()}\n\n{MARK.format(hash_card(card.content))}\n")


def hash_card(text: str) -> str:
    """Of a card without its mark."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def may_be_replaced(path: str | os.PathLike[str]) -> bool:
    """Whether nobody wrote the card at `path`: it is missing or empty, transformers' empty template, or as
    [`create_model_card`] made it."""
    if is_generated_card(path):
        return True
    text = Path(path).read_text(encoding="utf-8")
    mark = re.search(MARK.replace("{}", "([0-9a-f]{64})"), text)
    return not text.strip() or (mark is not None and hash_card(text.replace(mark[0], "")) == mark[1])


def is_generated_card(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is missing or the empty template that transformers puts into a repository without a card."""
    if not os.path.exists(path):
        return True
    with open(path, encoding="utf-8") as file:
        return "This model card has been automatically generated" in file.read()


def read_tags(path: str | os.PathLike[str]) -> list[str]:
    """Tags of the model card at `path`, none where it is missing."""
    return ModelCard.load(Path(path)).data.get("tags", []) if os.path.exists(path) else []
