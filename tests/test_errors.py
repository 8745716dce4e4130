"""Messages of others become one line."""

import pytest

from bitstack.errors import one_line


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one\n  two\tthree"), "one two three"),
        (KeyError("name"), "KeyError: 'name'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_one_line(error: Exception, text: str) -> None:
    assert one_line(error) == text
    assert len(one_line(ValueError("word " * 200))) <= 300
