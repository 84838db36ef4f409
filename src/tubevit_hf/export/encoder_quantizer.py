# SPDX-License-Identifier: Apache-2.0
"""int8 of the encoder by NNCF, for OpenVINO."""

from dataclasses import replace
from typing import Any

import nncf
import openvino
from transformers.exporters import ExportFormat, NNCFOpenVINOQuantizer, NNCFQuantizationConfig

from ..model.configuration_tubevit import TubeViTConfig
from .graph import Inputs


class EncoderQuantizer(NNCFOpenVINOQuantizer):
    """Leaves tubes, pooling and head as they are: they take no time, and what is rounded there is not made good."""

    def __init__(self, config: TubeViTConfig, samples: list[Inputs]):
        super().__init__(NNCFQuantizationConfig(subset_size=len(samples)), samples)
        self.widths = {config.hidden_size, config.intermediate_size}

    def quantize(
        self, model: openvino.Model, sample_inputs: dict[str, Any], export_format: ExportFormat
    ) -> openvino.Model:
        others = [
            node.get_friendly_name()
            for node in model.get_ordered_ops()
            if node.get_type_name() == "MatMul" and not self.is_of_encoder(node)
        ]
        self.config = replace(self.config, ignored_scope=nncf.IgnoredScope(names=others))
        return super().quantize(model, sample_inputs, export_format)

    def is_of_encoder(self, node: openvino.Node) -> bool:
        weight = node.input_value(1).get_node()
        return weight.get_type_name() == "Constant" and len(weight.shape) == 2 and set(weight.shape) <= self.widths
