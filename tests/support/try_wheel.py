# SPDX-License-Identifier: Apache-2.0
"""Builds the wheel, installs it without extras in a fresh environment, and does what a new user does first.

    python tests/support/try_wheel.py

Nothing of the repository can be imported there: what the package forgot to bring, or to require, shows.
"""

import os
import subprocess
import tempfile
import venv
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]

# a trained image ViT and a filmed video, as far as the first commands can tell
PREPARE = """
import av, numpy
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=32,
                   patch_size=8, num_labels=3)
ViTForImageClassification(config).save_pretrained("vit")
with av.open("clip.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=10, width=64, height=48, pix_fmt="yuv420p")
    for index in range(40):
        frame = av.VideoFrame.from_ndarray(numpy.full((48, 64, 3), 6 * index, numpy.uint8))
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
"""

CHECK = """
from importlib.resources import files
from transformers import pipeline
import tubevit_hf

for name in tubevit_hf.__all__:
    getattr(tubevit_hf, name)
assert (files("tubevit_hf") / "py.typed").is_file() and (files("tubevit_hf") / "__init__.pyi").is_file()
for name in ("page.html", "page.css", "charts.html"):
    assert (files("tubevit_hf") / "report" / "templates" / name).is_file(), name
assert len(pipeline("video-classification", model="tubevit")("clip.mp4", top_k=3)) == 3
for module in ("visualization", "data.moving_digits"):
    try:
        __import__(f"tubevit_hf.{module}")
    except ModuleNotFoundError as error:
        assert 'pip install "tubevit_hf[demo]"' in str(error), error
    else:
        raise AssertionError(f"tubevit_hf.{module} needs no extra?")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheels, builder, environment, work = (
            Path(folder, name) for name in ("wheels", "builder", "environment", "work")
        )
        venv.create(builder, with_pip=True)
        run(builder / "bin" / "python", "-m", "pip", "install", "--quiet", "build>=1.2.1", cwd=folder)
        # the wheel is made of the source distribution, so that neither lacks a file
        run(builder / "bin" / "python", "-m", "build", "--outdir", wheels, ROOT, cwd=folder)
        [wheel] = wheels.glob("*.whl")
        print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB", flush=True)
        venv.create(environment, with_pip=True)
        python, tubevit = environment / "bin" / "python", environment / "bin" / "tubevit"
        run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        work.mkdir()
        run(tubevit, "--help", cwd=work)
        run(tubevit, "info", "Ti", cwd=work)
        run(python, "-c", PREPARE, cwd=work)
        run(tubevit, "convert", "vit", "--out", "tubevit", cwd=work)
        run(tubevit, "predict", "clip.mp4", "--model", "tubevit", cwd=work)
        run(python, "-c", CHECK, cwd=work)
    print("The wheel works where nothing but its requirements is installed.")


def run(*command: object, cwd: Path | str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd=cwd,
        env={**environment, "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


if __name__ == "__main__":
    main()
