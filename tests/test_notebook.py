"""What notebooks use: numbers that the text may quote, and the library's own lines."""

import pytest

from irlib.attacks.mi import running_mean
from irlib.notebook import glue, source


def test_a_text_that_would_be_shown_as_a_tuple_is_refused():
    for text in ("1,200", "0.1, 0.2", "(1, 2)"):
        with pytest.raises(ValueError, match="would be shown as a tuple"):
            glue("name", text)
    for text in ("about 1,200", "0.5", "12 %", "−0.1 [−0.2, 0.1]"):
        glue("name", text)


def test_source_is_the_code_itself():
    text = source(running_mean, glue).data
    assert text.count("```python") == 2 and "def running_mean" in text and "def glue" in text
