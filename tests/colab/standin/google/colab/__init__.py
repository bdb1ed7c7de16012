"""Stands in for Colab's own module: the setup cell looks whether it is loaded, and the course needs no more.

Whatever else of Colab is asked for fails, so that a lesson that came to need it would be noticed.
"""


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError(f"google.colab.{name}: the course must not need more of Colab than its name")
