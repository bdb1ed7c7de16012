"""What every explorer keeps: Reset puts all back, with one redraw."""

from lecture7_utils.classroom.widgets.pieces import Explorer
from tests.classroom.test_widgets import ends_and_between


def resets_with_one_redraw(explorer: Explorer, buttons: tuple[str, ...] = ("reset",)) -> None:
    """Move every control but the buttons, press Reset: values, picture and numbers are as at first."""
    controls = {n: c for n, c in explorer.controls.items() if n not in buttons}
    first, view = {n: c.value for n, c in controls.items()}, (explorer.picture.value, explorer.readout.value)
    for control in controls.values():
        control.value = ends_and_between(control)[-1]
    assert (explorer.picture.value, explorer.readout.value) != view
    drawn = []
    explorer.readout.observe(drawn.append, "value")
    explorer.controls["reset"].click()
    assert {n: c.value for n, c in controls.items()} == first
    assert (explorer.picture.value, explorer.readout.value) == view
    assert len(drawn) == 1
