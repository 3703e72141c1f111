"""Registration with transformers' Auto classes; `jetlit/__init__.py` calls it when they are imported."""

from types import ModuleType
from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class LazyConfig(PreTrainedConfig):
    """Stands for `JetNemotronConfig` in transformers' table until a configuration of this type is read.

    The real class needs modules of transformers that may be in the middle of their own import. Reading a configuration
    imports `jetlit.models`, which registers the real configuration and model.
    """

    model_type = "jet_nemotron"

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return a `JetNemotronConfig` of these arguments."""
        return _real_config()(*args, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return a `JetNemotronConfig` of a config.json's values."""
        return _real_config().from_dict(config_dict, **kwargs)


def register_config(auto: ModuleType) -> None:
    """Add the hybrid to `AutoConfig`, and so to `AutoModelForCausalLM`."""
    auto.AutoConfig.register(LazyConfig.model_type, LazyConfig, exist_ok=True)


def register_tokenizer(auto: ModuleType) -> None:
    """Add the byte tokenizer to `AutoTokenizer`: its module does so."""
    import jetlit_data.tokenizer  # noqa: F401


def _real_config() -> Any:
    from jetlit.models import JetNemotronConfig

    return JetNemotronConfig
