# SPDX-License-Identifier: Apache-2.0
"""How long does a user wait for help, and for the package's first name?

    python benchmarks/startup.py

Each row is a new process, and all take turns. Help has to come within a second: it imports neither PyTorch nor
Transformers. The package's model class is held against a ViT's of Transformers, which imports the same libraries.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from common import describe_machine, report, summarise, time_interleaved


TUBEVIT = str(Path(sys.executable).with_name("tubevit"))
REFERENCE = "import transformers.models.vit.modeling_vit"
COMMANDS = {
    "tubevit --help": [TUBEVIT, "--help"],
    **{f"tubevit {name} --help": [TUBEVIT, name, "--help"] for name in ("info", "convert", "scale-up", "predict")},
    **{
        code: [sys.executable, "-c", code]
        for code in (
            "import tubevit_hf",
            "import tubevit_hf; tubevit_hf.TubeViTModel",
            "import tubevit_hf, transformers.pipelines",
            "import transformers.pipelines",
            REFERENCE,
        )
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()

    functions = {
        name: lambda command=command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name, command in COMMANDS.items()
    }
    seconds = time_interleaved(functions, torch.device("cpu"), arguments.rounds)
    rows = []
    for name, values in seconds.items():
        ratios = summarise([mine / theirs for mine, theirs in zip(values, seconds[REFERENCE])])
        rows.append({"command": name, **{f"{key} (s)": value for key, value in summarise(values).items()}})
        rows[-1]["/ modeling_vit"] = ratios["median"]
    report("startup_cpu", "From the command to its end", describe_machine(torch.device("cpu")), rows)


if __name__ == "__main__":
    main()
