"""Opens the ONNX graphs of the released checkpoint (CAM++ speaker encoder, S3 unit tokenizer)."""

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import TasteError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def open_graph(path: str | Path, n_inputs: int) -> "InferenceSession":
    """An onnxruntime session on the CPU. Raises TasteError: no onnxruntime, no such file, or another kind of graph."""
    try:
        import onnxruntime
    except ImportError as error:
        raise TasteError("reading ONNX graphs needs onnxruntime; run `pip install onnxruntime`.") from error
    path = Path(path)
    if not path.is_file():
        raise TasteError(f"{path} is not a file; give the path of the .onnx graph of the released checkpoint.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes share no other base
        raise TasteError(f"{path.name} is not a readable ONNX graph; copy it again.") from error
    if len(session.get_inputs()) != n_inputs:
        raise TasteError(f"{path.name} takes {len(session.get_inputs())} inputs instead of {n_inputs}; wrong graph.")
    return session
