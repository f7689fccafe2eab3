"""The doctor: which profile for a T4, an A100 and a processor, with and without network, and why."""

import json

import pytest

from taste_min import cli, doctor
from taste_min.doctor import Machine, advise
from taste_min.errors import TasteError

CPU = Machine("3.11.9", "2.13.0", 2, network=False)
T4 = Machine("3.12.1", "2.9.0", 2, True, "Tesla T4", 15.8, (7, 5))
A100 = Machine("3.12.1", "2.9.0", 12, True, "NVIDIA A100-SXM4-40GB", 42.4, (8, 0))


@pytest.fixture(autouse=True)
def no_results(tmp_path, monkeypatch):
    monkeypatch.setenv("TASTE_MIN_RESULTS", str(tmp_path))
    monkeypatch.delenv("TASTE_MIN_PROFILE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "machine, profile, dtype, release",
    [(CPU, "smoke", "float32", False), (T4, "gpu", "float32", True), (A100, "gpu", "bfloat16", True)],
    ids=["cpu", "t4", "a100"],
)
def test_every_machine_gets_its_profile_and_the_reasons(machine, profile, dtype, release):
    advice = advise(machine)
    assert (advice.profile, advice.dtype, advice.release) == (profile, dtype, release)
    assert advice.why and advice.why_dtype and advice.why_minutes and advice.why_release
    text = str(advice)
    assert machine.python in text and profile in text and (machine.gpu or "none") in text
    assert advice._repr_html_().count("<tr>") == len(advice.rows()) + 1


def test_the_release_needs_network_and_memory():
    assert not advise(Machine("3.12", "2.9", 2, False, "A100", 42.4, (8, 0))).release
    small = advise(Machine("3.12", "2.9", 2, True, "GTX 1050", 4.2, (6, 1)))
    assert not small.release and "GB" in small.why_release


def test_minutes_are_those_recorded_or_the_budget_or_unknown(no_results):
    assert advise(CPU).minutes == doctor.BUDGET_MINUTES
    assert advise(T4).minutes is None and "unknown" in str(advise(T4))
    (no_results / "gpu").mkdir()
    for name, seconds in (("00_a", 60), ("01_b", 180)):
        record = {"wall_seconds": seconds, "device": "Tesla T4"}
        (no_results / "gpu" / f"{name}.json").write_text(json.dumps(record))
    assert advise(T4).minutes == 4 and "Tesla T4" in advise(T4).why_minutes


def test_an_environment_variable_is_a_reason(monkeypatch):
    monkeypatch.setenv("TASTE_MIN_PROFILE", "smoke")
    assert advise(A100).profile == "smoke" and "TASTE_MIN_PROFILE" in str(advise(A100))
    with pytest.raises(TasteError, match="profile must be"):
        advise(CPU, "huge")


def test_the_network_is_asked_once_and_not_when_told_so(monkeypatch):
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert not doctor.reaches_hub() and len(asked) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not doctor.reaches_hub() and len(asked) == 1


def test_the_command_looks_at_this_machine(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "reaches_hub", lambda: True)
    assert cli.main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["network"] is True
