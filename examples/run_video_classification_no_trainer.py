# SPDX-License-Identifier: Apache-2.0
"""Fine-tune any `AutoModelForVideoClassification` in a plain PyTorch loop, with Accelerate for devices and processes.

    accelerate launch examples/run_video_classification_no_trainer.py \
        --model_name_or_path PATH_OR_REPO --data_dir DATA_DIR --output_dir OUTPUT_DIR

DATA_DIR is as `run_video_classification.py` wants it, which has more to offer: annotation files, recipes, augmentation
and logs. Here everything is in sight. A classifier of other classes begins anew. After each epoch the state is saved,
and the same command goes on from there.
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    HfArgumentParser,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from tubevit_hf.data import (
    ClipDataset,
    EvaluationViews,
    ShuffledBatches,
    TrainingClip,
    collate_clips,
    drop_unreadable,
    get_names,
    load_folder,
)
from tubevit_hf.evaluation import TopKAccuracy, predict_views
from tubevit_hf.training import TrainingDiverged, check_weights


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "Folder or repo id of a checkpoint to fine-tune."})
    data_dir: str = field(metadata={"help": "Folder with train/LABEL/*.mp4 and validation/LABEL/*.mp4."})
    output_dir: str = field(metadata={"help": "Folder to write."})
    num_train_epochs: int = field(default=10, metadata={"help": "Times that each training video is seen."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Clips of a batch on one device."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The highest; cosine schedule after a warm-up."})
    weight_decay: float = field(default=0.05, metadata={"help": "Of AdamW."})
    seed: int = field(default=42, metadata={"help": "Of the order of videos and of what is new in the model."})
    short_clips: str = field(
        default="repeat",
        metadata={
            "help": "What to do with a video of fewer frames than a clip: repeat them, or pad the clips of a batch to "
            "the longest, which a TubeViT does not see.",
            "choices": ["repeat", "pad"],
        },
    )
    use_cpu: bool = field(default=False, metadata={"help": "Leave the GPU alone."})


def main() -> None:
    [args] = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    # clips may be too short for some of the tubes
    parallel = DistributedDataParallelKwargs(find_unused_parameters=args.short_clips == "pad")
    accelerator = Accelerator(cpu=args.use_cpu, kwargs_handlers=[parallel])
    set_seed(args.seed)
    output = Path(args.output_dir)

    # 1. Data and model
    videos = {split: drop_unreadable(rows, split) for split, rows in load_folder(args.data_dir).items()}
    labels = get_names(videos["train"])
    model = AutoModelForVideoClassification.from_pretrained(
        args.model_name_or_path,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
        ignore_mismatched_sizes=True,
    )
    config, num_frames = model.config, model.config.num_frames
    processor = AutoVideoProcessor.from_pretrained(args.model_name_or_path, num_frames=num_frames)
    clip = TrainingClip(processor, num_frames, short_clips=args.short_clips)
    clips = ClipDataset(videos["train"], clip, args.seed)
    views = ClipDataset(videos["validation"], EvaluationViews(processor, num_frames, short_clips=args.short_clips))
    batches = ShuffledBatches(
        len(clips), args.per_device_train_batch_size, args.seed, accelerator.process_index, accelerator.num_processes
    )
    train_loader = DataLoader(clips, batch_sampler=batches, collate_fn=collate_clips)
    eval_loader = DataLoader(views, args.per_device_train_batch_size, collate_fn=collate_clips)

    # 2. Optimizer; model and batches go to their device and process
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    num_steps = args.num_train_epochs * len(batches)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
    model, optimizer, eval_loader = accelerator.prepare(model, optimizer, eval_loader)
    accelerator.register_for_checkpointing(schedule)
    states = {int(path.name.removeprefix("epoch_")): path for path in output.glob("epoch_*")}
    finished = max(states, default=0)
    if finished:
        accelerator.load_state(states[finished])

    for epoch in range(finished, args.num_train_epochs):
        # 3. Training
        clips.set_epoch(epoch)
        batches.set_epoch(epoch)
        model.train()
        for batch in tqdm(train_loader, desc=f"Epoch {epoch + 1}", disable=not show_progress(accelerator)):
            batch = send_to_device(batch, accelerator.device)
            labels, pixel_values = batch.pop("labels"), batch.pop("pixel_values")
            with accelerator.autocast():
                # a `frame_mask`, where clips are padded
                logits = model(pixel_values, **batch).logits
            # a sum over the size of a full batch: in a smaller one a clip weighs the same
            loss = cross_entropy(logits.float(), labels, reduction="sum") / args.per_device_train_batch_size
            if not loss.isfinite():
                raise TrainingDiverged(f"The loss is {loss.item()} in epoch {epoch + 1}. Lower the learning rate.")
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

        # 4. Evaluation
        model.eval()
        accuracy = TopKAccuracy(1)
        for batch in eval_loader:
            labels, pixel_values = batch.pop("labels"), batch.pop("pixel_values")
            scores = predict_views(model, pixel_values, **batch)
            scores, labels = accelerator.gather_for_metrics((scores, labels))
            accuracy.add_batch(predictions=scores.cpu(), references=labels.cpu())
        accelerator.print(f"Epoch {epoch + 1}: {accuracy.compute()}")

        # the name of a state tells that it is whole; only then the one before goes
        check_weights(model)
        accelerator.save_state(output / "unfinished")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (output / "unfinished").rename(output / f"epoch_{epoch + 1}")
            shutil.rmtree(output / f"epoch_{epoch}", ignore_errors=True)
        accelerator.wait_for_everyone()

    # the shards of all processes together, if the model is sharded
    weights = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        whole = AutoModelForVideoClassification.from_config(config)
        whole.load_state_dict(weights)
        whole.save_pretrained(output)
        processor.save_pretrained(output)


def show_progress(accelerator: Accelerator) -> bool:
    return accelerator.is_main_process and sys.stderr.isatty()


if __name__ == "__main__":
    main()
