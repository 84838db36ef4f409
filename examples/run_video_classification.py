#!/usr/bin/env python
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
"""Fine-tune any `AutoModelForVideoClassification` with the Trainer.

The videos lie in class folders, `DATA_DIR/train/LABEL/*.mp4` and `DATA_DIR/validation/LABEL/*.mp4`:

    python examples/run_video_classification.py \
        --model_name_or_path PATH_OR_REPO --data_dir DATA_DIR --output_dir OUTPUT_DIR --do_train --do_eval \
        --num_train_epochs 10 --per_device_train_batch_size 8 --learning_rate 1e-4 \
        --lr_scheduler_type cosine --warmup_steps 0.1

To train from scratch, give `--config_name` instead: a folder with a `config.json` and a processor. On a CPU add
`--use_cpu --bf16 True` if it computes in bfloat16. `--help` lists all arguments, the Trainer's included.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Video, load_dataset
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.video_utils import VideoMetadata

from tubevit_hf import read_video  # the import also registers TubeViT with the Auto classes


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or repo id of a checkpoint to fine-tune."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or repo id with a config and a processor, to train from scratch."}
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Start with a new classifier where the checkpoint's has other classes."}
    )


@dataclass
class DataArguments:
    data_dir: str = field(metadata={"help": "Folder with train/LABEL/*.mp4 and validation/LABEL/*.mp4."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames of a clip. Default: the model's."})


def main() -> None:
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    # rows hold a path and a label until the transform below makes pixels of them
    parser.set_defaults(remove_unused_columns=False)
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    source = model_args.model_name_or_path or model_args.config_name
    if source is None:
        parser.error("give --model_name_or_path to fine-tune a checkpoint or --config_name to train from scratch")
    set_seed(training_args.seed)

    # 1. Data: paths only; `load_videos` below decodes them, with PyAV
    dataset = load_dataset("videofolder", data_dir=data_args.data_dir).cast_column("video", Video(decode=False))
    labels = dataset["train"].features["label"].names

    # 2. Model
    config = AutoConfig.from_pretrained(
        source,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    if data_args.num_frames is not None:
        config.num_frames = data_args.num_frames
    if model_args.model_name_or_path:
        model = AutoModelForVideoClassification.from_pretrained(
            source, config=config, ignore_mismatched_sizes=model_args.ignore_mismatched_sizes
        )
    else:
        model = AutoModelForVideoClassification.from_config(config)
    processor = AutoVideoProcessor.from_pretrained(source, num_frames=config.num_frames)

    def load_videos(rows: dict[str, list]) -> dict[str, list]:
        videos = [read_video(video["path"], sample_frames)[0] for video in rows["video"]]
        pixel_values = processor(videos, do_sample_frames=False, return_tensors="pt")["pixel_values"]
        return {"pixel_values": list(pixel_values), "labels": rows["label"]}

    def sample_frames(metadata: VideoMetadata) -> np.ndarray:
        return processor.sample_frames(metadata, num_frames=config.num_frames)

    dataset = dataset.with_transform(load_videos)

    # 3. Training
    trainer = VideoTrainer(
        model=model,
        args=training_args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=processor,
        compute_metrics=compute_accuracy,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.save_state()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)

    # 4. Evaluation
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)

    if training_args.push_to_hub:
        trainer.push_to_hub(dataset=Path(data_args.data_dir).name)
    else:
        trainer.create_model_card(dataset=Path(data_args.data_dir).name)


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(axis=-1) == prediction.label_ids))}


class VideoTrainer(Trainer):
    """A Trainer that leaves the model card to the model, where the model writes its own."""

    def create_model_card(self, model_name: str | None = None, dataset: str | None = None, **kwargs) -> None:
        if not hasattr(self.model, "create_model_card"):
            super().create_model_card(model_name=model_name, dataset=dataset, **kwargs)
        elif self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            accuracies = [entry["eval_accuracy"] for entry in self.state.log_history if "eval_accuracy" in entry]
            metrics = {"accuracy": accuracies[-1]} if accuracies else None
            card = self.model.create_model_card(self.hub_model_id or folder.name, metrics=metrics, dataset=dataset)
            card.save(folder / "README.md")


if __name__ == "__main__":
    main()
