"""The explorers: one for each lesson, of core ipywidgets only (7.7 and 8 alike).

What costs a pass through the network is done once and kept, or waits for a button with a progress bar; the
rest of a redraw is a few milliseconds of numpy. Pictures are encoded images, not figures: that is several
times as quick. An error inside a callback is shown in the explorer, kept in `failures`, and raised.
"""

from lecture7_utils.classroom.widgets.lesson0 import explore_predictions
from lecture7_utils.classroom.widgets.lesson1 import explore_saliency
from lecture7_utils.classroom.widgets.lesson2 import explore_occlusion
from lecture7_utils.classroom.widgets.lesson3 import explore_cam
from lecture7_utils.classroom.widgets.lesson4 import explore_ascent
from lecture7_utils.classroom.widgets.lesson5 import explore_units
from lecture7_utils.classroom.widgets.lesson6 import explore_convolution
from lecture7_utils.classroom.widgets.lesson7 import explore_trace
from lecture7_utils.classroom.widgets.lesson8 import explore_latent_walk
from lecture7_utils.classroom.widgets.lesson9 import explore_offers
from lecture7_utils.classroom.widgets.pieces import Explorer
from lecture7_utils.classroom.widgets.upload import upload_photo

__all__ = [
    "Explorer",
    "explore_ascent",
    "explore_cam",
    "explore_convolution",
    "explore_latent_walk",
    "explore_occlusion",
    "explore_offers",
    "explore_predictions",
    "explore_saliency",
    "explore_trace",
    "explore_units",
    "upload_photo",
]
