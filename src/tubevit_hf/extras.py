# SPDX-License-Identifier: Apache-2.0
"""Which extra to install where a library is missing that only some of the package needs."""

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def of_extra(extra: str) -> Generator[None, None, None]:
    """Around imports of libraries that `pip install "tubevit_hf[extra]"` brings.

    Raises:
        ModuleNotFoundError: one of them is missing; the error says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is not installed: `pip install "tubevit_hf[{extra}]"` brings it.', name=error.name
        ) from error
