"""Nested records that may differ by rounding: sums of floats have other last digits from Python 3.12 on."""

import pytest


def nearly(value):
    """`value` with every float replaced by what equals its neighbours, for the right side of ==."""
    if isinstance(value, dict):
        return {key: nearly(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [nearly(one) for one in value]
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True) if isinstance(value, float) else value
