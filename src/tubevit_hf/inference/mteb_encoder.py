# SPDX-License-Identifier: Apache-2.0
"""A TubeViT as MTEB's tasks of videos and images take it: `mteb.evaluate(TubeViTEncoder("org/name"), tasks)`.

A `SentenceTransformer` alone is a model of text to MTEB (2.26), whatever it takes, and would be given all frames of a
video, decoded; here the video processor asks the video's decoder for those that it wants.
"""

from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from sentence_transformers import SentenceTransformer

from .sentence_tubevit import TubeViTSentenceModule


class TubeViTEncoder(AbsEncoder):
    """
    Args:
        model_name: folder or repo id of a TubeViT.
        revision: of a repo.
        device: to run on; by default a GPU, if there is one.
    """

    def __init__(self, model_name: str, revision: str | None = None, *, device: str | None = None, **kwargs: Any):
        module = TubeViTSentenceModule.load(model_name, revision=revision)
        self.model = SentenceTransformer(modules=[module], device=device)
        # MTEB wants an organization, which a folder has not
        name = model_name if model_name.count("/") == 1 else f"local/{model_name.rstrip('/').rpartition('/')[2]}"
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "loader": type(self),
                "name": name,
                "revision": revision,
                "modalities": module.modalities,
                "embed_dim": module.get_embedding_dimension(),
                "framework": ["Transformers", "PyTorch"],
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )

    def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
        """Features of all that a loader gives, in batches of its own: `(rows, features)`."""
        batches = []
        for batch in inputs:
            column = "video" if "video" in batch else "image"
            entries = [{column: entry} for entry in batch[column]]
            batches.append(self.model.encode(entries, batch_size=len(entries), show_progress_bar=False))
        return np.concatenate(batches)
