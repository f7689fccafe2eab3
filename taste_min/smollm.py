"""SmolLM2-135M, the text language model of the mini preset (the paper takes Llama-3.2-1B, section 3.2).

The asset is a 4-bit GGUF file. Unpacking it takes longer than anything else that is done with it, so the first call
keeps the unpacked weights and the tokenizer in the user cache.
"""

import os
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaForCausalLM
from transformers.utils import logging

from .assets import cache_folder, fetch
from .errors import TasteError
from .text import load_tokenizer


def load_smollm() -> tuple[LlamaForCausalLM, Tokenizer]:
    """The model in float32 and its tokenizer; fetches and unpacks them on first use. Raises TasteError without gguf."""
    logging.disable_progress_bar()  # they would end up on the pages
    folder = cache_folder() / "smollm2-unpacked"
    if not folder.is_dir():
        _unpack(fetch("smollm2"), folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), load_tokenizer(folder)


def _unpack(asset: Path, folder: Path) -> None:
    """Write config, float16 weights and tokenizer.json, all or nothing."""
    try:
        import gguf  # noqa: F401  transformers reads the file with it
    except ImportError as error:
        raise TasteError("reading SmolLM2 needs the package gguf; install it with `pip install gguf`.") from error
    name = next(asset.glob("*.gguf")).name
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(asset, gguf_file=name, dtype=torch.float16, quantization_config=plain)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(partial)
        AutoTokenizer.from_pretrained(asset, gguf_file=name).backend_tokenizer.save(str(partial / "tokenizer.json"))
        if not folder.is_dir():  # another process may have been faster
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
