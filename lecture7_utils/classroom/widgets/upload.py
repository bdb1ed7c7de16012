"""The reader's own photo, in the last cell of a lesson on photos."""

import re
from collections.abc import Callable, Mapping

import ipywidgets as widgets
from torch import Tensor

from lecture7_utils.classroom.widgets.pieces import message_html
from lecture7_utils.kernels.arguments import describe
from lecture7_utils.shop.models import Classifier
from lecture7_utils.shop.photos import Photo
from lecture7_utils.shop.photos import photo as as_photo


def upload_photo(net: Classifier, show: Callable[[Photo, Tensor], object]) -> widgets.VBox:
    """The last cell of a lesson on photos: choose a picture file, and `show(photo, images)` is called for it.

    show: gets the `Photo` and what the network takes, float [1, 3, H, W]; what it prints and plots appears
    below the button. A file that is no photo gives a message that says so. The file stays in this kernel.
    controls: "upload", "reset". Returns the root widget; its `failures` keeps what `show` raised.
    Raises `TypeError` if `net` is no Classifier or `show` can't be called.
    """
    if not isinstance(net, Classifier):
        raise TypeError(f"net: expected a Classifier, as load_model gives it, got {describe(net)}")
    if not callable(show):
        raise TypeError(f"show: expected a function show(photo, images), got {describe(show)}")
    upload = widgets.FileUpload(
        accept="image/*", multiple=False, description="Choose a photo", layout={"width": "190px"}
    )
    reset = widgets.Button(description="Clear", icon="undo", layout={"width": "110px"})
    invitation = message_html(
        "Choose a picture of your own, best one of an animal or a thing that ImageNet knows. "
        "What you saw above appears here for it. The file goes to this notebook's kernel and nowhere else."
    )
    readout, output = widgets.HTML(invitation), widgets.Output()
    readout.add_class("l7-readout")
    root = widgets.VBox([widgets.HBox([upload, reset]), readout, output])
    root.add_class("l7-explorer")
    root.controls = {"upload": upload, "reset": reset}
    root.readout, root.output, root.failures = readout, output, []

    def received(_change) -> None:
        file = _uploaded(upload.value)
        if file is None:
            return
        name, content = file
        output.clear_output()
        try:
            own = as_photo(content, name=name)
            images = net.preprocess(own)
        except (TypeError, ValueError) as error:
            text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", repr(name), str(error).removeprefix("source: "))
            readout.value = message_html(f"{name}: {text}. Choose another file.", wrong=True)
            return
        width, height = own.image.size
        readout.value = message_html(f"{name}, {width} × {height} pixels")
        with output:  # shows the traceback of what `show` raises
            try:
                show(own, images)
            except Exception as error:
                root.failures.append(error)
                raise

    def cleared(_button) -> None:
        output.clear_output()
        readout.value = invitation

    upload.observe(received, "value")
    reset.on_click(cleared)
    return root


def _uploaded(value: object) -> tuple[str, bytes] | None:
    """Name and bytes of the file: ipywidgets 8 gives a tuple of dicts, 7 a dict of name to dict."""
    if not value:
        return None
    if isinstance(value, Mapping):
        name, file = next(iter(value.items()))
    else:
        file = value[-1]
        name = file["name"]
    return name, bytes(file["content"])
