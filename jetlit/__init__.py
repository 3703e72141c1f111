"""jetlit: Lightning recipes for PostNAS, which turns a full-attention decoder into a fast hybrid.

Names below are imported when first used, so that `import jetlit` needs neither torch nor transformers. Once
transformers' Auto classes are imported, before or after jetlit, they know the hybrid and the byte tokenizer.
"""

import importlib
import importlib.metadata
from typing import Any

import wrapt

_EXPORTS = {
    "Architecture": "jetlit.models",
    "GenerationEngine": "jetlit.generation",
    "SuperNetwork": "jetlit.models",
    "hybridize": "jetlit.models",
    "load_model": "jetlit.models",
    "register_block": "jetlit.blocks",
    "register_task": "jetlit.tasks",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("jetlit")
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'jetlit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Called when a module is imported, or at once if it was imported before.
wrapt.register_post_import_hook("jetlit.registration:register_config", "transformers.models.auto.configuration_auto")
wrapt.register_post_import_hook("jetlit.registration:register_tokenizer", "transformers.models.auto.tokenization_auto")
