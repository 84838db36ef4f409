# SPDX-License-Identifier: Apache-2.0
"""Runs the tests with the lowest versions that pyproject.toml allows, and records them.

    python tests/support/lowest_versions.py
    python tests/support/lowest_versions.py --again    # only the tests that failed, after they were mended

uv resolves each direct requirement to its lower bound, for the oldest Python at hand that the package allows.
`tests/lowest_versions.txt` gets what was installed and how the tests ended; `tests/test_lowest_versions.py` holds it
against pyproject.toml, so that no bound changes without a run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import date
from importlib.metadata import requires
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "tests" / "lowest_versions.txt"
ENVIRONMENT = ROOT / ".venv-lowest"
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")


def bounds() -> dict[str, str]:
    """Lower bound of each direct requirement, those of the tests included. The site, graphs, trials and seats in other
    libraries are left out."""
    found = {}
    for requirement in requires("tubevit_hf"):
        match = re.match(r"([\w.-]+?)>=([\w.]+)", requirement)
        if match and not re.search(
            r"extra == .(docs|quality|lowest|export|onnx|openvino|seats|space|tune)", requirement
        ):
            found[match[1].lower().replace("-", "_")] = match[2]
    return found


def main() -> None:
    python = next(filter(None, map(shutil.which, PYTHONS)), sys.executable)
    environment = {
        **os.environ,
        "UV_PYTHON_DOWNLOADS": "never",
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "passive",
    }

    def run(*command: object, **kwargs) -> subprocess.CompletedProcess:
        return subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, text=True, **kwargs)

    again = "--again" in sys.argv[1:]
    uv = (sys.executable, "-m", "uv")
    if not again:
        run(*uv, "venv", "--clear", "--python", python, ENVIRONMENT, check=True)
    its_python = ENVIRONMENT / "bin" / "python"
    if not again:
        install = (*uv, "pip", "install", "--python", its_python, "--resolution", "lowest-direct")
        run(*install, "--editable", ".[test]", "pip>=25", check=True)
        run(its_python, "tests/support/fetch_transformers_tests.py", check=True)
    # types are checked with today's libraries, and the record is what this run makes
    left_out = ("--ignore", "tests/test_typing.py", "--ignore", "tests/test_lowest_versions.py")
    # graphs need newer versions, which their extras ask for, and so do their names
    left_out += ("--ignore", "tests/export", "--ignore", "tests/test_public_api.py")
    # the site is built with today's tools
    left_out += ("--ignore", "tests/docs/test_site.py")
    log = ENVIRONMENT / "tests.log"
    command = (its_python, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", *left_out)
    if again:
        command += ("--last-failed", "--last-failed-no-failures", "none")
    tests = run("bash", "-o", "pipefail", "-c", f'{shlex.join(map(str, command))} | tee "{log}"')
    versions = run(*uv, "pip", "freeze", "--python", its_python, stdout=subprocess.PIPE, check=True).stdout
    installed = {
        match[1].lower().replace("-", "_"): match[2] for match in re.finditer(r"^([\w.-]+)==(\S+)$", versions, re.M)
    }
    lines = [f"{name}=={installed[name]}" for name in sorted(bounds())]
    its_version = run(its_python, "--version", stdout=subprocess.PIPE, check=True).stdout.strip()
    ending = log.read_text(encoding="utf-8").strip().splitlines()[-1].strip("= ")
    if again:
        before = RECORD.read_text(encoding="utf-8").splitlines()[0].split(": ", 1)[1]
        ending = f"{before}; again, what had failed: {ending}"
    RECORD.write_text("\n".join([f"# {date.today()}, {its_version}: {ending}", *lines]) + "\n", encoding="utf-8")
    print(f"written to {RECORD}")
    sys.exit(tests.returncode)


if __name__ == "__main__":
    main()
