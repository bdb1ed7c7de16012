"""Moves every control of every explorer in a kernel, as the last cell of a rehearsed notebook.

It runs where the notebook runs, so it needs nothing but ipywidgets, in version 7 or 8, and Pillow. The text
of this file is the cell: the rehearsal adds a line that calls `drive`.
"""

import io

import ipywidgets
from PIL import Image


def explorers() -> list[ipywidgets.Widget]:
    """The explorers of this kernel: the widgets with the class l7-explorer."""
    if hasattr(ipywidgets.widgets.widget, "_instances"):  # ipywidgets 8
        known = ipywidgets.widgets.widget._instances
    else:
        known = ipywidgets.Widget.widgets
    return [widget for widget in known.values() if "l7-explorer" in getattr(widget, "_dom_classes", ())]


def seen(explorer: ipywidgets.Widget) -> tuple[object, str]:
    """What an explorer shows: the bytes of its picture (None without one) and the text of its readout."""
    picture = getattr(explorer, "picture", None)
    return (picture.value if picture else None), explorer.readout.value


def upload(control: ipywidgets.FileUpload) -> None:
    """Send a small picture as a browser does."""
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "PNG")
    content = file.getvalue()
    about = {"name": "mine.png", "type": "image/png", "size": len(content)}
    if hasattr(control, "_counter"):  # ipywidgets 7 takes the file when the counter comes
        about["lastModified"] = 1_700_000_000_000
        control.set_state({"metadata": [about], "data": [memoryview(content)], "_counter": 1})
    else:
        about["last_modified"] = 1_700_000_000_000
        control.set_state({"value": [{**about, "content": memoryview(content)}]})


def another(control: ipywidgets.Widget) -> object:
    """A value of the control that is not its present one, as far away as possible."""
    if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        return not control.value
    if hasattr(control, "options"):
        values = [value[1] if isinstance(value, tuple) else value for value in control.options]
        return next((value for value in reversed(values) if value != control.value), control.value)
    if hasattr(control, "max"):
        return control.min if control.value == control.max else control.max
    raise TypeError(f"{type(control).__name__}: a control that the rehearsal can't move")


def drive(expected: int) -> None:
    """Move each control of each explorer from where Reset puts it, and press each button; print what moved.

    Raises `AssertionError` if there are fewer than `expected` explorers, if one raised or shows an error, if
    its picture is none, or if nothing that it shows changed.
    """
    found = explorers()
    assert len(found) >= expected, f"{len(found)} explorers in the kernel, expected {expected}"
    for explorer in found:
        moved, still = [], []
        for name, control in explorer.controls.items():
            if name == "reset":
                continue
            explorer.controls["reset"].click()
            before = seen(explorer)
            if isinstance(control, ipywidgets.FileUpload):
                upload(control)
            elif isinstance(control, ipywidgets.Button):
                control.click()
            else:
                control.value = another(control)
            assert not explorer.failures, f"{name}: {explorer.failures[-1]!r}"
            assert not getattr(getattr(explorer, "problem", None), "value", ""), explorer.problem.value
            (moved if seen(explorer) != before else still).append(name)
            picture = seen(explorer)[0]
            if picture is not None:
                with Image.open(io.BytesIO(picture)) as image:
                    image.load()
        explorer.controls["reset"].click()
        assert not explorer.failures, f"reset: {explorer.failures[-1]!r}"
        assert moved, f"nothing changed; the controls are {list(explorer.controls)}"
        print(f"moved: {', '.join(moved)}" + (f"; no change by {', '.join(still)} alone" if still else ""))
