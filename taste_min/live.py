"""Functions with controls, where a kernel runs: ipywidgets asks for values, and the function shows what they give.

A page has no kernel, and ipywidgets would fetch scripts there. So where notebooks run unattended (TASTE_MIN_LIVE=0, as
tools/execute.py sets it) the function is called once, with the first values, and a sentence says where to try others.

Axes: none.
"""

import os
from collections.abc import Callable

from .viz import Html

NOTE = "This is what the first values give. With a kernel, in JupyterLab or on Colab, others can be chosen here."
Control = bool | str | tuple[int, int] | list


def interact(make: Callable[..., Html], **controls: Control):
    """What `make(**values)` returns, with a control for each of its arguments and a button.

    controls: True or False (a box to tick), text, (lowest, highest) whole numbers, or a list to choose from; the first
    value is the one given, the lowest, or the first of the list. Returns an ipywidgets box, or `Html` without a kernel.
    """
    first = {name: value[0] if isinstance(value, tuple | list) else value for name, value in controls.items()}
    if os.environ.get("TASTE_MIN_LIVE") == "0":
        made = make(**first)
        return Html(f"{made.html}<p><em>{NOTE}</em></p>", f"{made.text}\n{NOTE}")
    from ipywidgets import interactive

    box = interactive(make, {"manual": True, "manual_name": "Run", "auto_display": True}, **controls)
    for name, value in first.items():  # of a range ipywidgets takes the middle
        next(child for child in box.kwargs_widgets if child.description == name).value = value
    return box
