# SPDX-License-Identifier: Apache-2.0
"""Runs Python code in a process that is killed where a function is called for the n-th time.

    python tests/support/stopping.py os:replace 3 -m tubevit_hf.cli embed videos --out features

So a test stops a run at a step that it chooses, whatever the machine and its load.
"""

import importlib
import itertools
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def stop_at(function: str, count: int) -> list[str]:
    """What comes between Python and its arguments: `module:name` of the function, and at which call it dies."""
    return [__file__, function, str(count)]


def run_until_killed(line: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs a line with `stop_at` in it, and makes sure that it was killed before it ended."""
    # of a group of its own, all of which is killed
    ended = subprocess.run(line, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL, ended.returncode


def main(function: str, count: str, *line: str) -> None:
    module, _, names = function.partition(":")
    owner: Any = importlib.import_module(module)
    *places, name = names.split(".")
    for place in places:
        owner = getattr(owner, place)
    whole, calls = getattr(owner, name), itertools.count(1)

    def dies(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == int(count):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        return whole(*arguments, **settings)

    setattr(owner, name, dies)
    if line[0] == "-m":
        sys.argv = list(line[1:])
        runpy.run_module(line[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(line)
        sys.path.insert(0, os.path.dirname(line[0]))
        runpy.run_path(line[0], run_name="__main__")


if __name__ == "__main__":
    # as Python itself does, not this folder
    sys.path.pop(0)
    main(*sys.argv[1:])
