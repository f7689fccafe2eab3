"""The stand-in that lets torchaudio be imported beside a CPU-only torch, and the light `import taste_min`."""

import subprocess
import sys
import time

import pytest

from taste_min._torchaudio import needs_stand_in


@pytest.mark.parametrize(
    "torch, torchaudio, expected",
    [
        ("2.13.0+cpu", "2.11.0", True),  # the registry's torchaudio is built for CUDA
        ("2.13.0+cpu", "2.11.0+cu128", True),
        ("2.13.0+cpu", "2.13.0+cpu", False),  # a matching pair
        ("2.11.0", "2.11.0", False),
        ("2.11.0+cu128", "2.11.0+cu128", False),
        ("2.13.0+cpu", "", False),  # torchaudio is not installed
        ("", "2.11.0", False),
    ],
)
def test_needs_stand_in(torch, torchaudio, expected):
    assert needs_stand_in(torch, torchaudio) is expected


def test_everything_imports_after_taste_min():
    """As in this process: conftest.py imports taste_min before anything that needs torchaudio."""
    import peft
    import torchaudio
    import transformers

    imported = list(sys.modules)
    others = [imported.index(module.__name__) for module in (peft, torchaudio, transformers)]
    assert imported.index("taste_min") < min(others)
    assert torchaudio.functional.resample


def test_import_is_light():
    code = "import sys, time; t = time.perf_counter(); import taste_min; print(time.perf_counter() - t); "
    code += "print('torch' in sys.modules)"
    seconds = []
    for _ in range(3):
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        elapsed, has_torch = printed.split()
        assert has_torch == "False"
        seconds.append(float(elapsed))
        time.sleep(0.1)
    assert min(seconds) < 0.3  # the best of three: other processes may be busy
