# SPDX-License-Identifier: Apache-2.0
"""Folders that Sentence Transformers opens: `SentenceTransformer(folder, trust_remote_code=True).encode("a.mp4")`."""

import json
import os
import shutil
from pathlib import Path

from transformers import AutoImageProcessor, AutoModel, AutoVideoProcessor

from ..folders import check_folder, written_whole


# the file that defines the module, and its class
CODE = Path(__file__).with_name("sentence_tubevit.py")
MODULE = "sentence_tubevit.TubeViTSentenceModule"


def to_sentence_transformer(
    model: str | os.PathLike[str], folder: str | os.PathLike[str], overwrite: bool = False
) -> None:
    """Writes a folder with the model, without a head, its processors, and the module that makes a
    `SentenceTransformer` of them: it embeds videos and images. Only Sentence Transformers and PyAV are needed there.

    Args:
        model: folder or repo id of a TubeViT.
        folder: to write.
        overwrite: replaces the folder.

    Raises:
        FolderError: the folder cannot be written.
        OSError, ValueError: there is no such model.
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    loaded = AutoModel.from_pretrained(model)
    image_processor = AutoImageProcessor.from_pretrained(model)
    video_processor = AutoVideoProcessor.from_pretrained(model)
    with written_whole(folder, overwrite) as unfinished:
        loaded.save_pretrained(unfinished)
        # a video processor saves one for images too, which need not be the one that was there
        video_processor.save_pretrained(unfinished)
        image_processor.save_pretrained(unfinished)
        shutil.copy(CODE, unfinished)
        modules = [{"idx": 0, "name": "0", "path": "", "type": MODULE}]
        settings = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
        for name, values in (("modules.json", modules), ("config_sentence_transformers.json", settings)):
            (unfinished / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
