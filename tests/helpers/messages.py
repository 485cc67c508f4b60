"""Check a message by its key words: the option's, column's or file's name, or the number that is the point.

The sentence around them may be mended without a change of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nlpcl.errors import UsageError


def mentions(message: str, words: str) -> bool:
    """Return whether every blank-separated word of `words` stands in `message`, and not as a part of a longer word."""
    return all(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message) for word in words.split())


@contextmanager
def refused(words: str) -> Iterator[pytest.ExceptionInfo[UsageError]]:
    """Expect a UsageError whose message is one line that mentions `words`."""
    with pytest.raises(UsageError) as caught:
        yield caught
    message = str(caught.value)
    assert mentions(message, words), message
    assert "\n" not in message
