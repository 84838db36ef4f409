# SPDX-License-Identifier: Apache-2.0
"""Fetches the shared test classes of the installed transformers version, which its wheel leaves out.

    python tests/support/fetch_transformers_tests.py

They come with transformers' source distribution on PyPI and go to `.cache/` at the root of the repository, where
`transformers_mixins.py` reads them; a second run finds them there. Tests themselves need no network.
"""

import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path, PurePosixPath


VERSION = version("transformers")
FOLDER = Path(__file__).resolve().parents[2] / ".cache" / f"transformers-{VERSION}-tests"
WANTED = ("tests/test_*_common.py", "tests/test_*_mixin.py")


def main() -> None:
    if FOLDER.is_dir():
        print(f"transformers {VERSION}'s shared tests are in {FOLDER}")
        return
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        files = unpack(download(scratch), Path(scratch) / "tests")
        # a rename is atomic: whoever sees the folder sees all of it
        try:
            (Path(scratch) / "tests").rename(FOLDER)
        except OSError:
            # another run was faster
            if not FOLDER.is_dir():
                raise
    print(f"{files} of transformers {VERSION}'s shared test files are in {FOLDER}")


def download(folder: str) -> Path:
    """Brings the source distribution; nothing of it is installed."""
    # without isolation pip reads the metadata with the setuptools at hand, instead of downloading another one
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", folder]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", *options]
    if subprocess.run([*command, f"transformers=={VERSION}"]).returncode:
        sys.exit(f"pip could not download the source distribution of transformers {VERSION}; see its message above.")
    return next(Path(folder).glob("transformers-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> int:
    """Writes the wanted files side by side into `folder`, and returns how many they are."""
    folder.mkdir()
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            # transformers-5.23.0/tests/test_modeling_common.py -> tests/test_modeling_common.py
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if member.isfile() and any(fnmatch(str(path), pattern) for pattern in WANTED):
                (folder / path.name).write_bytes(tar.extractfile(member).read())
                count += 1
    # one of the files imports its own folder as a package
    (folder / "__init__.py").touch()
    return count


if __name__ == "__main__":
    main()
