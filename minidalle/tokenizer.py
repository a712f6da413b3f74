"""Byte-level BPE: text becomes a short list of ids, and any text at all can be written.

The alphabet is the 256 bytes, so no character is ever unknown. Training looks at the captions,
joins the two neighbours that stand together most often into a new token, and repeats (Sennrich
et al. 2016; on bytes, as in GPT-2 and BART). Encoding replays those joins, the *merges*.

    " a cat"  ->  " a", " cat"  ->  Ġ a | Ġ c a t   ->  Ġa | Ġca t   ->  [0, 261, 350, 88, 2]
     text          words            bytes as symbols     tokens           ids from <s> to </s>

Nothing here calls the `tokenizers` library; the tests hold every id and every merge learned equal
to it. One exception: letters that Unicode gained only recently may be split off differently, since
that library and `regex` keep tables of letters from different years.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import regex
import torch

from minidalle.tokenizer_json import SPECIAL_TOKENS, read_tokenizer, write_tokenizer

SPECIAL = regex.compile("(" + "|".join(SPECIAL_TOKENS) + ")")

# GPT-2's words: English endings, letters, digits, or other marks, each with the one space before
# it; then the white space that is left. A merge never crosses from one word into the next.
WORD = regex.compile(r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
WHITE_SPACE = "".join(chr(code) for code in range(0x3001) if regex.match(r"\s", chr(code)))


def byte_symbols() -> list[str]:
    """One visible character per byte, byte 0 first (GPT-2's table: a space is written `Ġ`).

    Bytes that are visible in Latin-1 stand for themselves, the others borrow the characters from
    256 on. So every token can be read, and a space can separate the halves of a merge in a file.
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("ÿ") + 1)} - {0xAD}
    borrowed = iter(range(256, 512))
    return [chr(byte if byte in visible else next(borrowed)) for byte in range(256)]


SYMBOLS = byte_symbols()
BYTES = {symbol: byte for byte, symbol in enumerate(SYMBOLS)}


class ByteLevelBPE:
    """A byte-level BPE tokenizer: `train` or `load` one, then `encode` and `decode`.

    Args:
        vocab: token -> id; ids 0 … V−1 without a gap, special tokens and byte symbols among them.
        merges: pairs of tokens to join, the first learned first; each result is a token too.
        mask_strips_left: whether `<mask>` in a text swallows the white space before it.

    Raises:
        ValueError: the vocabulary or a merge is not what the above says.
    """

    BOS, PAD, EOS, UNK, MASK = range(len(SPECIAL_TOKENS))
    CACHE_SIZE = 16_384  # words

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        mask_strips_left: bool = True,
    ) -> None:
        self.vocab: dict[str, int] = dict(vocab)
        self.merges: list[tuple[str, str]] = [(left, right) for left, right in merges]
        self.mask_strips_left = mask_strips_left
        check_vocabulary(self.vocab, self.merges)
        self.tokens: list[str] = sorted(self.vocab, key=self.vocab.__getitem__)  # id -> token
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cache: dict[str, tuple[int, ...]] = {}

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens, special ones included."""
        return len(self.vocab)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> ByteLevelBPE:
        """Learns a vocabulary of V = `vocab_size` tokens, or fewer once every pair is too rare.

        The pair that occurs most often is merged first. Of two that occur equally often, the one
        with the smaller left id goes first, then the one with the smaller right id: the rule of
        the `tokenizers` library. Byte symbols get their ids in the order of their characters.

        Args:
            texts: captions, read once.
            vocab_size: V, at least 261: five special tokens and 256 bytes.
            min_frequency: how often a pair must occur, in all the texts together, to be merged.

        Raises:
            ValueError: `vocab_size` is too small, or a text holds a lone surrogate.
        """
        tokens = [*SPECIAL_TOKENS, *sorted(SYMBOLS)]
        ids = {token: index for index, token in enumerate(tokens)}
        if vocab_size < len(tokens):
            raise ValueError(f"vocab_size: found {vocab_size}, expected at least {len(tokens)}")

        # A word that occurs a thousand times is looked at once, and counts a thousand times.
        frequency = Counter(word for text in checked(texts) for word in WORD.findall(text))
        words = [[ids[symbol] for symbol in symbols_of(word)] for word in frequency]
        weights = list(frequency.values())
        counts: Counter[tuple[int, int]] = Counter()  # of each pair of neighbours
        places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # words it has been in
        for index, word in enumerate(words):
            for pair in pairwise(word):
                counts[pair] += weights[index]
                places[pair].add(index)

        # The heap gives the highest count, then the smallest ids. Its entries are never corrected:
        # when a count changes a new one is pushed, and the old one is passed over on its way out.
        queue = [(-count, pair) for pair, count in counts.items()]
        heapq.heapify(queue)
        merges: list[tuple[str, str]] = []
        while queue and len(tokens) < vocab_size:
            negative, pair = heapq.heappop(queue)
            if -negative != counts[pair]:
                continue
            if -negative < max(min_frequency, 1):
                break
            merges.append((tokens[pair[0]], tokens[pair[1]]))
            tokens.append("".join(merges[-1]))
            changes: Counter[tuple[int, int]] = Counter()
            for index in places.pop(pair):
                for old in pairwise(words[index]):
                    changes[old] -= weights[index]
                words[index] = replace_pair(words[index], pair, len(tokens) - 1)
                for new in pairwise(words[index]):
                    changes[new] += weights[index]
                    places[new].add(index)
            for changed, change in changes.items():
                if change:
                    counts[changed] += change
                    heapq.heappush(queue, (-counts[changed], changed))
        return cls({token: index for index, token in enumerate(tokens)}, merges)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, `[0, …, 2]`: from `<s>` to `</s>`, neither padded nor cut.

        A special token written in the text ("a <mask> cat") becomes its one id.

        Raises:
            ValueError: the text holds a lone surrogate, which UTF-8 cannot write.
        """
        return [self.BOS, *self._text_ids(text), self.EOS]

    def encode_batch(
        self, texts: Sequence[str], length: int = 64
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of B texts, all T = `length` long: cut so that `</s>` stays, padded with `<pad>`.

        Returns:
            ids (B, T) and mask (B, T), both int64; the mask is 1 on tokens and 0 on padding.

        Raises:
            ValueError: `length` leaves no room for `<s>` and `</s>`, or see `encode`.
        """
        if length < 2:
            raise ValueError(f"length: found {length}, expected at least 2, for <s> and </s>")
        ids = torch.full((len(texts), length), self.PAD, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(checked(texts)):
            kept = [self.BOS, *self._text_ids(text)[: length - 2], self.EOS]
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = 1
        return ids, mask

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text as strings, without `<s>` and `</s>` around them."""
        return [self.tokens[index] for index in self._text_ids(text)]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids (a list or a 1-D tensor). Bytes that are not UTF-8 become `�`, U+FFFD.

        Raises:
            ValueError: an id is outside 0 … V−1.
        """
        numbers = [int(index) for index in ids]
        for index in numbers:
            if not 0 <= index < self.vocab_size:
                raise ValueError(f"ids: found {index}, expected 0 … {self.vocab_size - 1}")
        first = len(SPECIAL_TOKENS) if skip_special_tokens else 0
        symbols = "".join(self.tokens[index] for index in numbers if index >= first)
        return bytes(BYTES[symbol] for symbol in symbols).decode("utf-8", errors="replace")

    def _text_ids(self, text: str) -> list[int]:
        """Special tokens first, then words, then merges; without `<s>` and `</s>`."""
        [text] = checked([text])
        ids: list[int] = []
        pieces = SPECIAL.split(text)  # text, special token, text, special token, …, text
        for index, piece in enumerate(pieces):
            if index % 2 == 1:
                ids.append(self.vocab[piece])
                continue
            if self.mask_strips_left and pieces[index + 1 : index + 2] == ["<mask>"]:
                piece = piece.rstrip(WHITE_SPACE)
            for word in WORD.findall(piece):
                ids.extend(self._word_ids(word))
        return ids

    def _word_ids(self, word: str) -> tuple[int, ...]:
        """Ids of one word. Captions repeat their words, so some thousands are remembered."""
        if word not in self._cache:
            if len(self._cache) >= self.CACHE_SIZE:
                self._cache.clear()
            parts = apply_merges(symbols_of(word), self._ranks)
            self._cache[word] = tuple(self.vocab[part] for part in parts)
        return self._cache[word]

    @classmethod
    def load(cls, path: str | Path, merges: str | Path | None = None) -> ByteLevelBPE:
        """Reads a `tokenizer.json`, a folder with one, or a folder with `vocab.json`, `merges.txt`.

        Where these two have other names, `path` is the vocabulary's and `merges` the merges'.

        Raises:
            FileNotFoundError: none of these is there.
            ValueError: a file is damaged, or asks for what this class does not do (a normalizer,
                a space put before the text, …). Nothing is guessed; the message names the field.
        """
        merges = None if merges is None else Path(merges)
        vocab, rules, mask_strips_left = read_tokenizer(Path(path), merges)
        try:
            return cls(vocab, rules, mask_strips_left)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, folder: str | Path) -> Path:
        """Writes `folder/tokenizer.json`, whole or not at all; the `tokenizers` library reads it.

        Returns:
            The path of the file.
        """
        vocab = {token: index for index, token in enumerate(self.tokens)}
        return write_tokenizer(Path(folder), vocab, self.merges, self.mask_strips_left)


def symbols_of(word: str) -> list[str]:
    """One symbol per UTF-8 byte: " é" becomes Ġ, Ã, ©."""
    return [SYMBOLS[byte] for byte in word.encode("utf-8")]


def replace_pair(word: list[int], pair: tuple[int, int], joined: int) -> list[int]:
    """Joins each `pair` in a word, from the left: "aaa" becomes "aa", "a"."""
    result: list[int] = []
    for token in word:
        # What was joined just now cannot be a left half again: its id is new, and not in `pair`.
        if result and (result[-1], token) == pair:
            result[-1] = joined
        else:
            result.append(token)
    return result


def apply_merges(parts: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Joins neighbours until no pair is a merge: the lowest rank first, of equals the leftmost.

    To search every pair before every join would take n² steps, and a 10,000-letter word seconds.
    So the joins wait in a heap. A token stays at the place of its left half; the place of its
    right half is emptied, and `before` and `after` lead past it.
    """
    size = len(parts)
    before, after = list(range(-1, size - 1)), list(range(1, size + 1))
    queue = [(ranks[pair], i, pair) for i, pair in enumerate(pairwise(parts)) if pair in ranks]
    heapq.heapify(queue)
    while queue:
        _, left, pair = heapq.heappop(queue)
        right = after[left]
        if right == size or (parts[left], parts[right]) != pair:
            continue  # one of the two was joined to another neighbour meanwhile
        parts[left], parts[right] = parts[left] + parts[right], ""
        after[left] = following = after[right]
        if following < size:
            before[following] = left
        for i, j in ((before[left], left), (left, following)):
            if i >= 0 and j < size and (pair := (parts[i], parts[j])) in ranks:
                heapq.heappush(queue, (ranks[pair], i, pair))
    return [part for part in parts if part]


def checked(texts: Iterable[str]) -> Iterable[str]:
    """The texts one by one; raises an error for what is no list of texts that UTF-8 can write."""
    if isinstance(texts, str):
        raise TypeError("texts: found one string, expected a list (or other iterable) of strings")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"text: found {type(text).__name__}, expected a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text: found the lone surrogate {text[error.start]!a} at character {error.start}; "
                "UTF-8 cannot write it: text.encode('utf-8', 'replace').decode() puts '?' there"
            ) from None
        yield text


def check_vocabulary(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """Raises a ValueError that names the first thing missing or out of place."""
    for index, token in enumerate(SPECIAL_TOKENS):
        if vocab.get(token) != index:
            found = f"id {vocab[token]!r}" if token in vocab else "no such token"
            raise ValueError(f"vocab: {token}: found {found}, expected id {index}")
    if missing := [symbol for symbol in SYMBOLS if symbol not in vocab]:
        raise ValueError(f"vocab: {len(missing)} byte symbols of 256 are missing: {missing[:4]}")
    ids = set(map(repr, vocab.values()))  # repr, since a file could say true, 1.0 or [1]
    if ids != set(map(repr, range(len(vocab)))):
        raise ValueError(f"vocab: expected {len(vocab)} ids, each of 0 … {len(vocab) - 1} once")
    if strange := [token for token in vocab if not (token and BYTES.keys() >= set(token))]:
        raise ValueError(f"vocab: found {strange[:5]}, expected tokens made of byte symbols")
    for number, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in vocab:
                raise ValueError(f"merges[{number}] {left!r} {right!r}: {token!r} is not in vocab")
