"""Word vectors in place of an encoder: `Words` says which, `Vectors` holds them and makes the tokenizer.

A text is lower-cased, its punctuation turned to blanks, and split on blanks, as in the original toolkit
(PyContinual, https://github.com/ZixuanKe/PyContinual), whose filter is Keras's; an apostrophe inside a word stays. The
original's index holds the words of all tasks and splits; here the vocabulary is that of the vector file, or of the
first task's training text, so that nothing of a later task is known before its time.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nlpcl.benchmarks._tokens import columns
from nlpcl.config.files import sha256
from nlpcl.errors import UsageError

PADDING, UNKNOWN = "[PAD]", "[UNK]"
SPECIAL = (PADDING, UNKNOWN)
_FASTTEXT = struct.pack("<i", 793712314)
"""First bytes of fastText's binary files."""
# gensim raises these for a file that is cut short, for another format and for a fastText classifier.
_READ_ERRORS = (
    *(ValueError, OSError, EOFError, MemoryError, NotImplementedError, AssertionError),
    *(zlib.error, struct.error),
)
DIMENSIONS = 300
TRAINING: dict[str, Any] = {"sg": 1, "window": 5, "negative": 5, "min_count": 1, "epochs": 10, "seed": 0}
NORMALIZER = normalizers.Sequence(
    [
        normalizers.Lowercase(),
        normalizers.Replace("’", "'"),
        normalizers.Replace(Regex(r"[\p{P}\p{S}&&[^']]|(?<!\w)'|'(?!\w)"), " "),
        # Every text has at least one token.
        normalizers.Replace(Regex(r"\A\s*\z"), UNKNOWN),
    ]
)
SPLITTER = pre_tokenizers.WhitespaceSplit()


def split_words(text: str) -> list[str]:
    """Return the words of a text as the tokenizer sees them; `[UNK]` if there are none."""
    return [word for word, _ in SPLITTER.pre_tokenize_str(NORMALIZER.normalize_str(text))]


@dataclass(frozen=True)
class Vectors:
    """Words and their vectors.

    :param words: word i has id i + 2; id 0 is padding, 1 an unknown word.
    :param matrix: FloatTensor (2 + number of words, D), a vector by id; the first two are zero.
    :param source: their origin, for the record.
    """

    words: tuple[str, ...]
    matrix: Tensor
    source: dict[str, Any]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a tokenizer of whole words, without special tokens around a text or between the two of a pair."""
        vocabulary = {word: i for i, word in enumerate(self.words, start=len(SPECIAL))}
        vocabulary |= {word: i for i, word in enumerate(SPECIAL)}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        backend.normalizer = NORMALIZER
        backend.pre_tokenizer = SPLITTER
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            pad_token=PADDING,
            unk_token=UNKNOWN,
            padding_side="right",
            model_input_names=["input_ids", "attention_mask"],
            name_or_path=self.source["name"],
        )


@dataclass(frozen=True)
class Words:
    """Word vectors as the argument `tokenizer` of a stream, for a backbone that reads whole words.

    :param file: vectors in word2vec's text or binary format, GloVe's or fastText's (.vec or .bin), also gzipped; None:
        trained on the first task's training text.
    :param pairs: what is read of a pair of texts: the `second` alone, or `both` as one text.
    """

    file: str | Path | None = None
    pairs: Literal["second", "both"] = "both"

    def columns(self, frame: Any) -> tuple[list[str], list[str] | None]:
        """Return the texts of a frame that are read: first segments and, where both of a pair are read, second ones."""
        texts, pairs = columns(frame)
        if pairs is not None and self.pairs == "second":
            texts, pairs = pairs, None
        # A tokenizer makes no token of an empty text, but one of a blank.
        return [text or " " for text in texts], None if pairs is None else [text or " " for text in pairs]

    def vectors(self, tasks: Sequence[Any]) -> Vectors:
        """Return the vectors in the file, or train them on the training text of the first task.

        :raises UsageError: as `read_vectors` and `train_vectors`.
        """
        if self.file is not None:
            return read_vectors(self.file)
        texts: list[str] = []
        for task in tasks[:1]:
            first, second = self.columns(task.train)
            texts = first if second is None else [f"{a} {b}" for a, b in zip(first, second, strict=True)]
        return train_vectors(texts, " ".join(task.name for task in tasks[:1]))


def read_vectors(file: str | Path) -> Vectors:
    """Return the vectors in a file, in its order; if a word comes twice its first vector counts.

    :param file: as in `Words`; which format it is shows in its first two lines.
    :raises UsageError: there is no such file, it is of another format, or gensim is missing.
    """
    gensim = _gensim()
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(
            f"no file {str(file)!r} of word vectors here: give the path of one (--model FILE), or leave --model out to "
            "train vectors on the first task's training text."
        )
    try:
        keyed = _read(gensim, path)
    except _READ_ERRORS as error:
        raise UsageError(
            f"{path} cannot be read as word vectors: it must be a word2vec (text or binary), GloVe or fastText (.vec "
            f"or .bin) file, plain or gzipped ({type(error).__name__}: {error})."
        ) from error
    vectors = _vectors(keyed, {"name": path.name, "sha256": sha256(path)})
    if not torch.isfinite(vectors.matrix).all():
        raise UsageError(f"{path} holds vectors with numbers that are not finite.")
    return vectors


def train_vectors(texts: Iterable[str], task: str) -> Vectors:
    """Train vectors of all words in `texts`, in the order in which they first occur, by Word2Vec's skip-gram.

    Mikolov et al., NIPS 2013, https://arxiv.org/abs/1310.4546. One worker and a fixed seed: the same texts give the
    same vectors, bit for bit.

    :param task: whose training texts they are, for the record.
    :raises UsageError: the texts hold no words, or gensim is missing.
    """
    gensim = _gensim()
    split = (split_words(text) for text in texts)
    sentences = [words for words in split if words != [UNKNOWN]]
    if not sentences:
        raise UsageError(
            "word vectors cannot be trained on texts without words: give a file of vectors (--model FILE)."
        )
    trained = gensim.models.Word2Vec(sentences, vector_size=DIMENSIONS, workers=1, sorted_vocab=0, **TRAINING)
    settings = ", ".join(f"{name}={value}" for name, value in TRAINING.items())
    source = {
        "name": "trained word vectors",
        "trained_on": f"the training text of task {task}",
        "method": f"gensim {gensim.__version__} Word2Vec, {settings}",
    }
    return _vectors(trained.wv, source)


def _vectors(keyed: Any, source: dict[str, Any]) -> Vectors:
    # For each word that comes twice in a file gensim leaves an empty place at the end.
    words = tuple(word for word in keyed.index_to_key if word is not None)
    matrix = torch.zeros(len(SPECIAL) + len(words), keyed.vector_size)
    matrix[len(SPECIAL) :] = torch.from_numpy(keyed.vectors[: len(words)])
    return Vectors(words, matrix, {**source, "words": len(words), "dimensions": keyed.vector_size})


def _read(gensim: Any, path: Path) -> Any:
    with gensim.utils.open(str(path), "rb") as file:
        start = file.read(len(_FASTTEXT))
    if start == _FASTTEXT:  # a word's vector is then the mean of its own and its n-grams'
        return gensim.models.fasttext.load_facebook_vectors(str(path))
    read = gensim.models.KeyedVectors.load_word2vec_format
    return read(str(path), unicode_errors="replace", **_format(gensim, path))


def _format(gensim: Any, path: Path) -> dict[str, bool]:
    """Return the arguments that make gensim read a file.

    :raises ValueError: its first lines are those of no known format.
    """
    with gensim.utils.open(str(path), "rb") as file:
        first, second = file.readline(1 << 16).split(), file.readline(1 << 16).split()
    if len(first) == 2 and all(part.isdigit() for part in first):
        count, dimensions = map(int, first)
        # gensim takes the memory before it reads on; no compression comes near this.
        if count * dimensions > 1000 * path.stat().st_size:
            raise ValueError(f"it is too small for {count} vectors of {dimensions} numbers")
        return {"binary": not _is_row(second, dimensions)}
    if not _is_row(first, len(first) - 1):
        raise ValueError("its first line is neither two counts nor a word and its vector")
    return {"no_header": True}


def _is_row(parts: list[bytes], dimensions: int) -> bool:
    """Return whether a line is a word and so many numbers."""
    try:
        return len(parts) == len([float(part) for part in parts[1:]]) + 1 == dimensions + 1 > 1
    except ValueError:
        return False


def _gensim() -> Any:
    try:
        import gensim
    except ImportError as error:
        raise UsageError(
            "word vectors need gensim, which comes with an extra: pip install 'nlpcl[vectors]'."
        ) from error
    return gensim
