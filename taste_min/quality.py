"""Predicted quality with two more judges than DNSMOS: ViSQOL and DistillMOS (paper section 4.2, table 1).

ViSQOL compares a system's speech with the recording, in the setting that reproduces the published column: speech mode,
16 kHz, polynomial mapping. The paper's UTMOS has no small distribution; DistillMOS is another model of the same kind
and stands in for it, under its own name. Both packages carry their weights; a score whose package is not installed is
left out of an evaluation, which says so.

Axes: S samples.
"""

import contextlib
import functools
import io
import logging
from importlib.util import find_spec

import torch

from .audio import SAMPLE_RATE
from .errors import TasteError

# score, which is also the module to import -> (package, extra of taste_min that brings it)
OPTIONAL = {"visqol": ("visqol-python", "peers"), "distillmos": ("distillmos", "metrics")}


def how_to_install(score: str) -> str:
    """What a score of OPTIONAL needs, as one sentence."""
    package, extra = OPTIONAL[score]
    return f"the score {score} needs the package {package}; run `pip install 'taste_min[{extra}]'`."


def not_installed() -> list[str]:
    """The scores of OPTIONAL whose package is not there."""
    return [score for score in OPTIONAL if find_spec(score) is None]


@functools.cache
def _visqol():
    try:
        from visqol import VisqolApi
    except ImportError as error:
        raise TasteError(how_to_install("visqol")) from error
    # it warns of every recording that a system says faster or slower
    logging.getLogger("visqol").setLevel(logging.ERROR)
    api = VisqolApi()
    api.create(mode="speech", use_lattice_model=False)  # the polynomial mapping, whatever else is installed
    return api


def visqol(original: torch.Tensor, spoken: torch.Tensor) -> float:
    """Similarity of a system's speech (S,) to the recording (S,) on a scale from 1 to 5; both at 16 kHz.

    It aligns the two patch by patch within about a second, so speech with another timing is marked down for that too.
    """
    found = _visqol().measure_from_arrays(original.double().numpy(), spoken.double().numpy(), SAMPLE_RATE)
    return float(found.moslqo)


@functools.cache
def _distillmos():
    try:
        from distillmos import ConvTransformerSQAModel
    except ImportError as error:
        raise TasteError(how_to_install("distillmos")) from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
        return ConvTransformerSQAModel().eval()  # dev: utmos-stand-in


@torch.no_grad()
def distillmos(wav: torch.Tensor) -> float:
    """Predicted quality of a recording (S,) at 16 kHz on a scale from 1 to 5, without a reference."""
    return _distillmos()(wav[None]).item()
