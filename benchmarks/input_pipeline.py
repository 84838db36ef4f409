# SPDX-License-Identifier: Apache-2.0
"""Does training wait for its videos, and does an epoch cost in proportion to them?

    make demo
    python benchmarks/input_pipeline.py --folder demo

Trains the demo's model on a quarter, a half and all of the demo's training videos, three epochs each, with one worker
that decodes them, and reports for each epoch the share of time that training waited for clips, and the time a clip.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from common import BATCH_SIZE, describe_machine, report
from transformers import TrainingArguments

from tubevit_hf import TubeViTConfig, TubeViTForVideoClassification, TubeViTVideoProcessor
from tubevit_hf.data import ClipDataset, TrainingClip, get_names, load_folder
from tubevit_hf.training import VideoTrainer


EPOCHS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="what `make demo` wrote")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    videos = load_folder(arguments.folder / "moving_digits")["train"].shuffle(seed=0)
    processor = TubeViTVideoProcessor.from_pretrained(arguments.folder / "config")
    rows = []
    for share in (4, 2, 1):
        part = videos.select(range(len(videos) // share))
        config = TubeViTConfig.from_pretrained(arguments.folder / "config", num_labels=len(get_names(videos)))
        dataset = ClipDataset(part, TrainingClip(processor, config.num_frames))
        for epoch, logs in enumerate(train(config, dataset, arguments.workers, arguments.device), start=1):
            rows.append(
                {
                    "clips": len(part),
                    "epoch": epoch,
                    "s": len(part) / logs["clips_per_second"],
                    "ms a clip": 1000 / logs["clips_per_second"],
                    "waiting (%)": 100 * logs["waiting_for_data"],
                }
            )
    device = torch.device(arguments.device)
    title = f"Three epochs of the demo's training, {arguments.workers} worker(s), batches of {BATCH_SIZE}"
    report(f"input_pipeline_{device.type}", title, describe_machine(device), rows)


def train(config: TubeViTConfig, dataset: ClipDataset, workers: int, device: str) -> list[dict]:
    """What is logged at the end of each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = VideoTrainer(
            model=TubeViTForVideoClassification(config),
            args=TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH_SIZE,
                dataloader_num_workers=workers,
                dataloader_persistent_workers=workers > 0,
                logging_strategy="epoch",
                save_strategy="no",
                report_to="none",
                disable_tqdm=not sys.stderr.isatty(),
                bf16=True,
                use_cpu=device == "cpu",
            ),
            train_dataset=dataset,
        )
        trainer.train()
    return [entry for entry in trainer.state.log_history if "clips_per_second" in entry]


if __name__ == "__main__":
    main()
