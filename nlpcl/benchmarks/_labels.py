"""Labels of your own data: what a class may be called, which two are one, and in which order they come."""

from __future__ import annotations

import difflib
import math
import numbers
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, localcontext
from typing import Any

INTEGER = re.compile(r"[+-]?[0-9]+")
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")
DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
# A list, a set or a tuple, as text: [1, 0], ['a'], [0], {1, 2}, (1, 0), and 1,0 (which may be a number, too).
_LISTED = re.compile(
    r"[\[{]\s*(?:[-+.0-9'\"].*)?[\]}]|\(\s*[-+.0-9'\"][^,]*,.*\)|[-+]?[0-9]+(?:\s*[,;|]\s*[0-9]+)+", flags=re.DOTALL
)
LONGEST_TEXT = 2_000_000
"""Characters of a text: a tokenizer takes some 350 bytes of memory for each, however few tokens are kept."""
_SEVERAL = "label is a list: multi-label data are not supported, a row has one label"
_MISSING_WORDS = ("nan", "none", "null", "na", "n/a", "<na>", "nat")


class NotALabel(Exception):
    """A value that names no class.

    :param fault: why not.
    :param kind: the same for all values with this fault; None: the fault as it is.
    """

    def __init__(self, fault: str, kind: str | None = None) -> None:
        super().__init__(fault)
        self.kind = kind or fault


def is_missing(value: Any) -> bool:
    """Return whether a value stands for none: a blank text, None, NaN, pandas' NA and NaT."""
    if isinstance(value, str):
        return not value.strip()
    if value is None or (isinstance(value, Decimal) and value.is_nan()):
        return True
    try:
        return bool(value != value)
    except (TypeError, ValueError, ArithmeticError):  # NA has no truth, nor has an array
        return type(value).__name__ == "NAType"


def word_of(value: Any, what: str = "label", classes: Sequence[str] = ()) -> str:
    """Return a value as text: the text itself; of a label or task also True, False, an integer's digits (also of 1.0).

    :param what: `label`; `task`, whose names may be any text or number; `text` or `text_pair`, which must be texts.
    :param classes: names that integers stand for.
    :raises NotALabel: it is missing, a list, an object or of another type; of a label also: it is a real number, or
        reads as a list.
    """
    if not isinstance(value, (str, numbers.Number)) and getattr(value, "shape", None) == ():
        value = value.item()  # an array or tensor of one value, which is no list
    if isinstance(value, str):
        return _checked(value, what)
    is_label = what == "label"
    if is_missing(value):
        raise NotALabel(f"no {what}")
    if what in ("text", "text_pair"):
        raise NotALabel(f"{what} is of type {type(value).__name__}: it must be a text")
    if type(value).__name__ in ("bool", "bool_"):
        return str(bool(value))
    if isinstance(value, (numbers.Real, Decimal)):
        number: Any = value
        if _is_whole(number):
            # Not str(), which refuses more than 4,300 digits.
            return _class_name(int(number), classes) if classes else str(Decimal(int(number)))
        if is_label:
            raise NotALabel(score_fault(_shown(value)), "score")
        return _shown(value)
    if isinstance(value, Mapping):
        raise NotALabel(f"{what} is an object: name one of its fields, as in {what}_column=a.b")
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        raise NotALabel(_SEVERAL if is_label else f"{what} is a list: a row has one {what}")
    raise NotALabel(f"{what} is of type {type(value).__name__}: it must be a text, a whole number, True or False")


def _checked(text: str, what: str) -> str:
    if not text.strip():
        raise NotALabel(f"no {what}")
    if has_surrogate(text):
        raise NotALabel(f"{what} holds half of a character (a lone surrogate)")
    if len(text) > LONGEST_TEXT:
        raise NotALabel(
            f"{what} has {len(text):,} characters, and {LONGEST_TEXT:,} are the most: cut it", f"long {what}"
        )
    if what == "label" and ("\0" in text or not folded(text)):
        raise NotALabel("label holds a NUL character, or none that shows")
    if what == "label" and _LISTED.fullmatch(text.strip()):
        raise NotALabel(_SEVERAL)
    return str(text)


def _is_whole(value: Any) -> bool:
    try:
        return isinstance(value, numbers.Integral) or (math.isfinite(value) and value == int(value))
    except OverflowError:  # a fraction beyond all floats
        return False


def _shown(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than Python converts
        return f"of type {type(value).__name__}"


def _class_name(number: int, classes: Sequence[str]) -> str:
    if number == -1:
        raise NotALabel("the label is hidden (-1): take a part whose labels are known")
    if not 0 <= number < len(classes):
        raise NotALabel(f"label {number} is none of the column's {len(classes)} classes")
    return classes[number]


def score_fault(value: str) -> str:
    """Return what is wrong with a real number."""
    return f"label {value} is a real-valued score: regression is not supported, name classes instead"


def has_surrogate(text: str) -> bool:
    """Return whether a text holds half of a surrogate pair, which no encoding can store."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def score_among(words: Iterable[str]) -> str | None:
    """Return the first real number, if all `words` are numbers."""
    words = list(words)
    if not all(map(DECIMAL.fullmatch, words)):
        return None
    return next((word for word in words if Decimal(word) != Decimal(word).to_integral_value()), None)


def as_integers(words: Iterable[str]) -> dict[str, str]:
    """Return the integer that each of `words` is, as a file of floats has it ("1.0" is 1); {} unless all are one."""
    words = list(words)
    if all(map(INTEGER.fullmatch, words)) or not all(map(_WHOLE.fullmatch, words)):
        return {}
    return {word: word.partition(".")[0] for word in words}


def combined(words: Iterable[str]) -> str | None:
    """Return the first label that is several of the others, joined by a comma, a semicolon or a bar."""
    known = dict.fromkeys(words)
    for word in known:
        for mark in ",;|":
            pieces = [piece.strip() for piece in word.split(mark)]
            if len(pieces) > 1 and all(piece in known for piece in pieces):
                return word
    return None


def folded(word: str) -> str:
    """Return what is left of a label without blanks, case, invisible characters, width, script and leading zeros."""
    plain = unicodedata.normalize("NFKC", word)
    plain = "".join(c for c in plain if not c.isspace() and unicodedata.category(c) != "Cf").casefold()
    plain = unicodedata.normalize("NFKC", plain)
    plain = "".join(str(unicodedata.decimal(c, c)) for c in plain)  # digits of other scripts
    if not DECIMAL.fullmatch(plain):
        return plain
    with localcontext() as context:
        context.prec = max(28, len(plain))
        return str((Decimal(plain) + 0).normalize())  # plus 0, as -0 is 0


def alike(words: Iterable[str]) -> list[list[str]]:
    """Return the groups of labels that `folded` makes one of."""
    groups: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        groups.setdefault(folded(word), []).append(word)
    return [group for group in groups.values() if len(group) > 1]


def clashes(words: Iterable[str]) -> list[tuple[list[str], str]]:
    """Return groups of labels that may be one, and why: those `alike`, and True or False beside 0 or 1."""
    words = list(words)
    groups = [(group, "differ only by blanks, case or notation") for group in alike(words)]
    truth, number = (next((w for w in words if folded(w) in known), None) for known in (("true", "false"), ("0", "1")))
    if truth is not None and number is not None:
        groups.append(([truth, number], "may be the same"))
    return groups


def doubts(words: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """Return labels that may not be meant as different classes, and why; all of them can be used."""
    doubtful: list[tuple[tuple[str, ...], str]] = []
    doubtful += [(pair, "are nearly the same") for pair in dict.fromkeys([*_alike_but_signs(words), *_slips(words)])]
    doubtful += [(pair, f"have {piece!r} in common; does a row have several labels?") for pair, piece in _shared(words)]
    doubtful += [(pair, "are a number and a word") for pair in _number_and_word(words)]
    if len(words) > 1:
        doubtful += [((word,), "may stand for a missing value") for word in words if folded(word) in _MISSING_WORDS]
    return doubtful


def _alike_but_signs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of words that signs alone tell apart, as very-good and very_good."""
    first: dict[str, str] = {}
    for word in words:
        plain = re.sub(r"[\W_]", "", folded(word))
        if len(plain) > 1 and not plain.isdigit() and (other := first.setdefault(plain, word)) != word:
            yield other, word


def _slips(words: Sequence[str], at_most: int = 200) -> Iterator[tuple[str, str]]:
    """Yield pairs that a slip of the pen may have made of one, as postive and positive; not if digits alone differ.

    :param at_most: with more labels none are compared.
    """
    if len(words) > at_most:
        return
    plain = {word: re.sub(r"[0-9]", "", word) for word in words if len(word) > 4}
    names = list(plain)
    matcher = difflib.SequenceMatcher(autojunk=False)
    for i, first in enumerate(names):
        matcher.set_seq2(first)
        for second in names[i + 1 :]:
            matcher.set_seq1(second)
            if plain[first] != plain[second] and matcher.quick_ratio() > 0.9 and matcher.ratio() > 0.9:
                yield first, second


def _shared(words: Sequence[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the first pair of labels with a piece in common, as news;sport and sport;tech, for each mark."""
    for mark in ",;|":
        first: dict[str, str] = {}
        for word in words:
            pieces = {folded(piece): piece.strip() for piece in word.split(mark) if piece.strip()}
            shared = next((piece for piece in pieces if piece in first), None)
            if shared is not None:
                yield (first[shared], word), pieces[shared]
                break
            first.update(dict.fromkeys(pieces, word))


def _number_and_word(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    number = next((word for word in words if DECIMAL.fullmatch(word)), None)
    other = next((word for word in words if not DECIMAL.fullmatch(word)), None)
    if number is not None and other is not None:
        yield number, other


def in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted as text, numbers by their value: 2 before 10, -1 before 0."""
    # Decimal, as int() refuses more than 4,300 digits.
    return tuple(sorted(words, key=lambda word: (Decimal(word) if INTEGER.fullmatch(word) else Decimal(0), word)))
