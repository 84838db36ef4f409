# SPDX-License-Identifier: Apache-2.0
"""The site, built once for all tests of a worker."""

import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
# anything that asks the network fails
OFFLINE = """
import socket, sys

def refuse(*arguments):
    raise OSError("the site must be built without network")

socket.create_connection = socket.getaddrinfo = socket.socket.connect = refuse
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess:
    """As `make docs` builds it."""
    arguments = ("build", "--strict", "--config-file", str(config), "--site-dir", str(folder))
    return subprocess.run([sys.executable, "-c", OFFLINE, *arguments], capture_output=True, text=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(folder)
    assert result.returncode == 0, result.stderr
    return folder
