# SPDX-License-Identifier: Apache-2.0
"""Graphs for ONNX Runtime, OpenVINO and PyTorch, right at every size that they take.

Needs Transformers' exporters and the runtimes (`pip install "tubevit_hf[export]"`).
"""

from ..extras import of_extra


with of_extra("export"):
    from .folder import ExportedTubeViT, ExportError, ModelInfo, export_model, exported_pipeline
    from .quantization import Clip, Int8Report
    from .sizes import SizeRange


__all__ = [
    "Clip",
    "ExportError",
    "ExportedTubeViT",
    "Int8Report",
    "ModelInfo",
    "SizeRange",
    "export_model",
    "exported_pipeline",
]
