"""What every notebook of the book uses: where it runs, and numbers that the text may quote."""

import ast
import inspect
import platform
from typing import Any

import numpy as np
import torch


def where() -> str:
    """One line that says on which device and with which versions the notebook runs."""
    threads = torch.get_num_threads()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {threads} thread" + "s" * (threads > 1)
    return f"{device} · Python {platform.python_version()} · torch {torch.__version__.split('+')[0]} · NumPy {np.__version__}"


def glue(name: str, text: str) -> None:
    """Let the text of the page quote ``text`` as {glue:text}`name`: a number in prose is never typed. Shows nothing in the notebook itself.

    A percent sign stays on the line of its number. The record is MyST-NB's own, written without MyST-NB, which a notebook on Colab does not have.
    Raises ValueError for a text that MyST-NB would show as a tuple, such as "1,200".
    """
    from IPython.display import display

    try:
        misread = isinstance(ast.literal_eval(text), tuple)  # as MyST-NB will read it
    except (ValueError, SyntaxError):
        misread = False
    if misread:
        raise ValueError(f"{text!r} would be shown as a tuple: leave the comma out, or put a word before it, as in 'about {text}'")
    prefix = "application/papermill.record/"
    display({f"{prefix}text/plain": text.replace(" %", "\u00a0%")}, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}}, raw=True)


def source(*objects: Any) -> Any:
    """The library's own lines of these functions and classes, as a code block for the end of a cell."""
    from IPython.display import Markdown

    return Markdown("\n".join(f"```python\n{inspect.getsource(each).rstrip()}\n```" for each in objects))
