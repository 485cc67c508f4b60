from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")

def cycle(loader: Iterable[_T]) -> Iterator[_T]: ...
