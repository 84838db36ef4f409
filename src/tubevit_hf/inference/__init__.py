# SPDX-License-Identifier: Apache-2.0
"""A trained model at work: on many files, on long videos and streams, and on features of them.

What belongs to libraries that are not installed with this package has a module of its own: `mteb_encoder`.
"""

from .embedding import Embedding
from .explaining import VideoExplanation, explain_video
from .feature_folders import FeaturesError, open_features
from .identity import OutputMismatch
from .neighbours import Neighbour, WeightsMismatch, search
from .prediction import Prediction, PredictionFile, predict_files
from .probes import ProbeReport, probe_features
from .reading import Reading, list_files
from .running import LoadedModel, load_model
from .segments import Segment, find_segments, format_srt
from .sentence_folders import to_sentence_transformer
from .streaming import StreamingClassifier, StreamResult, open_stream
from .timeline import Timeline, scan_timeline


__all__ = [
    "Embedding",
    "FeaturesError",
    "LoadedModel",
    "Neighbour",
    "OutputMismatch",
    "Prediction",
    "PredictionFile",
    "ProbeReport",
    "Reading",
    "Segment",
    "StreamResult",
    "StreamingClassifier",
    "Timeline",
    "VideoExplanation",
    "WeightsMismatch",
    "explain_video",
    "find_segments",
    "format_srt",
    "list_files",
    "load_model",
    "open_features",
    "open_stream",
    "predict_files",
    "probe_features",
    "scan_timeline",
    "search",
    "to_sentence_transformer",
]
