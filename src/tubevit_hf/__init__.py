# SPDX-License-Identifier: Apache-2.0
"""TubeViT (Sparse Video Tubes) for Hugging Face Transformers.

Where this package and Transformers are both imported, in either order, the Auto classes know TubeViT, so that
`AutoModel.from_pretrained(...)` and `pipeline("video-classification", ...)` load it. By itself the import is cheap:
PyTorch and Transformers come with the first name that needs them, and `tubevit --help` needs none.
"""

import lazy_loader
from wrapt import register_post_import_hook


__version__ = "0.1.0"

# the names, and where each comes from, are in __init__.pyi
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def _register(_transformers: object) -> None:
    from . import model  # noqa: F401  registers its classes


# at once if Transformers is there already
register_post_import_hook(_register, "transformers")
