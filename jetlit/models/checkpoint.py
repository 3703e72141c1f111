"""Checkpoints of the hybrid in transformers' conventions: strict loading, and saving that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from jetlit.errors import UserError
from jetlit.files import write_text
from jetlit.models.checkpoint_files import EMBEDDING, HEAD, check_files, check_loading, first_line
from jetlit.models.configuration import AUTO_MAP, JetNemotronConfig

_SHIM = """# Written by jetlit, which holds the model's code. transformers reads this file with trust_remote_code=True.
try:
    from jetlit.models import {names}
except ImportError as error:
    raise ImportError("This model needs the package jetlit ({{}}): pip install jetlit.".format(error)) from None
"""


class CheckpointModel(PreTrainedModel):
    """A model that loads only what fits its configuration, and whose saved folder names the code that it needs."""

    config: JetNemotronConfig
    config_class = JetNemotronConfig
    base_model_prefix = "model"

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        use_safetensors: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint as transformers does, but only from safetensors that fit the configuration.

        A local checkpoint's headers are compared with its config.json before a tensor is read. What the caller changes
        (fewer layers, `ignore_mismatched_sizes`, `key_mapping`) and what transformers fills in (the missing head of a
        decoder's checkpoint) is allowed, as there.

        Raises:
            UserError: tensors are missing, unexpected or of another shape than in the configuration, there are no
                safetensors, or the hub cannot be reached.
        """
        if use_safetensors is False:
            raise UserError("Only safetensors are read, since other weights may run code: leave use_safetensors out.")
        source = pretrained_model_name_or_path
        settings: dict[str, Any] = {"ignore_mismatched_sizes": True, "use_safetensors": True}
        if source is None:  # the caller gives a state dict
            settings["ignore_mismatched_sizes"] = ignore_mismatched_sizes
            return super().from_pretrained(None, *args, output_loading_info=output_loading_info, **(settings | kwargs))
        folder = Path(str(source), kwargs.get("subfolder") or "")
        if folder.is_file():
            raise UserError(f"{folder} is a file: give the folder that holds it.")
        is_checked = folder.is_dir() and not {"key_mapping", "gguf_file", "variant"} & set(kwargs)
        if is_checked and (folder / "config.json").is_file():
            is_checked = _check_folder(cls, folder, kwargs.get("config"), mismatched=ignore_mismatched_sizes)
        try:
            loaded: Any = super().from_pretrained(source, *args, output_loading_info=True, **settings, **kwargs)
        except OSError as error:
            raise UserError(
                f"The weights of {source} cannot be loaded ({first_line(error)}): give a folder with safetensors, or "
                "the name of a checkpoint on a hub that can be reached."
            ) from None
        model, info = loaded
        if getattr(model, "hf_quantizer", None) is None:
            _check_report(str(source), info, is_checked=is_checked, mismatched=ignore_mismatched_sizes)
        if model.config.tie_word_embeddings and cls._tied_weights_keys and not model.all_tied_weights_keys:
            model.config.tie_word_embeddings = False  # the file holds a head of its own
        return (model, info) if output_loading_info else model

    def save_pretrained(  # type: ignore[override] # the rest is passed on
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the model as transformers does, and the Python files for trust_remote_code, which import jetlit.

        Of a `state_dict` whose head equals its embedding, as gathered from shards, one is written.
        """
        if state_dict is not None and self.config.tie_word_embeddings:
            head, embedding = state_dict.get(HEAD), state_dict.get(EMBEDDING)
            if head is not None and embedding is not None and torch.equal(head, embedding):
                state_dict = {name: tensor for name, tensor in state_dict.items() if name != HEAD}
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
        if is_main_process and (Path(save_directory) / "config.json").is_file():
            for file, names in _shim_files().items():
                write_text(Path(save_directory) / file, _SHIM.format(names=", ".join(names)))

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: saving shall not copy this module, which is part of a package."""


def _check_folder(cls: type[PreTrainedModel], folder: Path, config: Any, *, mismatched: bool) -> bool:
    """Check a folder's tensors against its configuration, or for another family, against `config`; return if it was.

    Quantized tensors have names and shapes that transformers alone knows.
    """
    values, _ = JetNemotronConfig.get_config_dict(folder)
    if values.get("quantization_config"):
        return False
    if values.get("model_type") == JetNemotronConfig.model_type or not isinstance(config, JetNemotronConfig):
        config = JetNemotronConfig.from_pretrained(folder)
    with torch.device("meta"):
        expected = cls(config).state_dict()
    has_head = HEAD in expected
    if not has_head:  # the decoder alone, which a causal language model's checkpoint holds too
        expected = {f"model.{name}": tensor for name, tensor in expected.items()}
        expected[HEAD] = expected[EMBEDDING]
    check_files(folder, expected, tied=config.tie_word_embeddings or not has_head, mismatched=mismatched)
    return True


def _check_report(source: str, info: dict[str, Any], *, is_checked: bool, mismatched: bool) -> None:
    """Check what transformers reports after loading; in a checked folder only the caller can have left tensors over."""
    report = dict(info)
    if is_checked:
        report["unexpected_keys"] = ()
        report["missing_keys"] = set(info["missing_keys"]) - {HEAD}
    if mismatched:
        names = {name for name, *_ in info["mismatched_keys"]}
        report |= {"mismatched_keys": (), "missing_keys": set(report["missing_keys"]) - names}
    check_loading(source, report)


def _shim_files() -> dict[str, list[str]]:
    """Return the Python files that `AUTO_MAP` names, and the classes of each."""
    files: dict[str, list[str]] = {}
    for reference in AUTO_MAP.values():
        module, name = reference.split(".")
        files.setdefault(f"{module}.py", []).append(name)
    return files
