"""Lets `import torchaudio` work beside a CPU-only torch.

The torchaudio wheel of the public registry is linked against CUDA. Beside a CPU build of torch its compiled
extension cannot be loaded, `import torchaudio` raises OSError, and transformers and peft fail with it because they
import torchaudio when it is installed. Everything this project uses (resampling, mel filters, Kaldi filter banks,
data sets) is plain Python and needs no extension, so a stand-in for the private module that loads it is enough.
What needs compiled code (`forced_align`, CUDA decoders) then raises a clear error when it is called.
"""

import sys
from importlib import metadata
from types import ModuleType


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _fail(*args, **kwargs):
    raise RuntimeError("torchaudio's compiled extension is not available beside a CPU-only torch")


def needs_stand_in(torch_version: str, torchaudio_version: str) -> bool:
    """True for a CPU-only torch (`2.13.0+cpu`) beside a torchaudio that was built for CUDA (`2.11.0`)."""
    return torch_version.endswith("+cpu") and torchaudio_version != "" and not torchaudio_version.endswith("+cpu")


def install() -> None:
    """Put the stand-in in place when the two wheels do not match; decided from metadata, torch is not imported."""
    if "torchaudio" in sys.modules or not needs_stand_in(_version("torch"), _version("torchaudio")):
        return
    extension = ModuleType("torchaudio._extension")
    extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
    extension._IS_ALIGN_AVAILABLE = False
    extension.fail_if_no_align = lambda function: _fail
    extension._check_cuda_version = lambda: None
    sys.modules["torchaudio._extension"] = extension


install()
