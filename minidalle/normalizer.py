"""DALL·E mini's caption clean-up: any text in, plain lower-case words of ASCII out.

The published models learned from captions cleaned like this, so a prompt must take the same 25
steps to say to them what it says to you. Each step is a small function, text -> text, and
`TextNormalizer.steps` holds them in order (the steps are DALL·E mini's, Dayma et al. 2021; the code
is new, written from a description and held equal to stored results of the original).

    "It's 5:30pm in #NewYorkCity 🚀!!"  ->  " it's 5, 30pm in new york city, rocket"

One departure: the original used release 1.7.0 of the `emoji` package. The seven emoji renamed since
then keep the name that the models learned; younger emoji, which it dropped, get their name here.
"""

from __future__ import annotations

import html
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emoji
import ftfy
from unidecode import unidecode

# Marks that must survive step 18 hide behind capital letters until step 19. The text itself has no
# capitals after step 5, and a letter counts as part of a word in the steps between.
DOT, APOSTROPHE, SLASH = "D", "A", "S"

FORMER_EMOJI_NAMES = {
    "😡": ":pouting_face:",
    "🇨🇩": ":Congo_-_Kinshasa:",
    "🇨🇬": ":Congo_-_Brazzaville:",
    "🇭🇲": ":Heard_&_McDonald_Islands:",
    "🇸🇭": ":St._Helena:",
    "🇹🇫": ":French_Southern_Territories:",
    "🇹🇷": ":Turkey:",
}

# Conceptual Captions writes <person> where a name stood. The numbers are weights.
PERSONS = {"a person": 282265, "someone": 121194, "somebody": 12219}


class TextNormalizer:
    """Cleans a caption or prompt.

    >>> TextNormalizer()("A cat!")
    ' a cat'

    Args:
        word_list: a file of words, the most frequent first, one a line (what follows the word on
            its line is ignored); published as `enwiki-words-frequency.txt` with DALL·E mini. It
            serves to split hashtags. Without it `#newyork` is read as `newyork`.
        person: draws the words that take the place of `<person>`. Without it they are always
            "a person", so that a prompt gives the same text every time.

    Raises:
        FileNotFoundError: there is no such word list.
        ValueError: the word list is empty, or is not UTF-8.
    """

    def __init__(
        self, word_list: str | Path | None = None, person: random.Random | None = None
    ) -> None:
        self.person = person
        self.word_costs = {} if word_list is None else read_word_costs(Path(word_list))
        self.longest_word = max(map(len, self.word_costs), default=0)
        self.steps: tuple[Callable[[str], str], ...] = (
            ftfy.fix_text,  # 1: mojibake, curly quotes, control characters, lone surrogates
            unescape_html,
            name_emoji,
            unidecode,  # 4: "café 中" becomes "cafe zhong "
            str.lower,  # 5
            self.name_persons,
            drop_references,
            drop_tags,
            drop_urls,
            join_thousands,
            protect_dots,
            protect_apostrophes,
            protect_slashes,
            split_hyphens_and_signs,
            self.split_hashtags,
            drop_joiners,
            unify_quotes,
            marks_to_commas,
            restore_protected,
            shorten_repeats,
            merge_quotes,
            merge_commas,
            merge_spaces,
            trim,
            prepend_space,
        )

    def __call__(self, text: str) -> str:
        """The clean text. It starts with exactly one space; the empty text gives " "."""
        for step in self.steps:
            text = step(text)
        return text

    def name_persons(self, text: str) -> str:
        """Step 6: "<person>, <person> and <person>" becomes " people ", one alone " a person "."""
        between = r"[\s,]*(?:(?:and)+[\s,]*)?"
        text = re.sub(rf"<person>(?:{between}<person>)+", " people ", text)
        return re.sub("<person>", lambda _: f" {self.draw_person()} ", text)

    def draw_person(self) -> str:
        """The words for one <person>."""
        if self.person is None:
            return "a person"
        return self.person.choices(list(PERSONS), weights=list(PERSONS.values()))[0]

    def split_hashtags(self, text: str) -> str:
        """Step 15: "#newyorkcity" becomes "new york city", if there is a word list."""
        if not self.word_costs:
            return text
        return re.sub(r"#(\w+)", lambda match: self.split_hashtag(match[1]), text)

    def split_hashtag(self, hashtag: str) -> str:
        """The words of a hashtag, without its #: the split whose words are the most frequent.

        A protected mark inside stays where it is: "#don't" is read "don't".
        """
        parts = re.split(f"([{DOT}{APOSTROPHE}{SLASH}])", hashtag)
        parts[::2] = [
            " ".join(
                word for piece in re.split("[^a-zA-Z0-9']+", part) for word in self.words(piece)
            )
            for part in parts[::2]
        ]
        return "".join(parts)

    def words(self, piece: str) -> list[str]:
        """Cuts a piece of letters, digits and apostrophes into words of least summed cost.

        Dynamic programming: the best split of the first n characters is the best split of the
        first n − k and one more word of k characters. Of equal splits the one with the shorter
        last word is taken, so a piece with no known words falls apart into single characters.
        """
        costs = [0.0]  # costs[n]: of the best split of the first n characters
        lengths = [0]  # lengths[n]: of the last word in it
        for end in range(1, len(piece) + 1):
            candidates = (
                (costs[end - k] + self.word_costs.get(piece[end - k : end].lower(), math.inf), k)
                for k in range(1, min(end, max(self.longest_word, 1)) + 1)
            )
            cost, length = min(candidates)
            costs.append(cost)
            lengths.append(length)

        found: list[str] = []  # from the last word to the first
        end = len(piece)
        while end > 0:
            word = piece[end - lengths[end] : end]
            end -= lengths[end]
            if word == "'":
                continue
            both_digits = found and word[-1].isdigit() and found[-1][0].isdigit()
            if found and (found[-1] == "'s" or both_digits):
                found[-1] = word + found[-1]
            else:
                found.append(word)
        return found[::-1]


def read_word_costs(path: Path) -> dict[str, float]:
    """Word -> cost, ln(rank) with the most frequent word at rank 1."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found no word list; word_list=None does without one, or get "
            "enwiki-words-frequency.txt from dalle-mini/dalle-mini"
        )
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: found other bytes, expected UTF-8 text: {error}") from error
    costs: dict[str, float] = {}
    for rank, line in enumerate(lines, start=1):
        for word in line.split()[:1]:
            costs.setdefault(word, math.log(rank))
    if not costs:
        raise ValueError(f"{path}: found no words, expected one a line, the most frequent first")
    return costs


def unescape_html(text: str) -> str:
    """Step 2: "&amp;lt;" becomes "<". Twice, since some captions were escaped twice."""
    for _ in range(2):
        # No character has a number this long, and Python refuses to read one of 4,301 digits.
        text = html.unescape(re.sub(r"&#[0-9]{100,};?", "", text))
    return text


def name_emoji(text: str) -> str:
    """Step 3: "🚀" becomes ":rocket:"."""

    def name(symbol: str, data: dict[str, Any]) -> str:
        return FORMER_EMOJI_NAMES.get(symbol, data["en"])

    return emoji.demojize(text, version=0, handle_version=name)  # newer than version 0: all of them


def drop_references(text: str) -> str:
    """Step 7: a bracketed number, as Wikipedia has them, at the very start and the very end."""
    return re.sub(r"\[\d+\]\s*\Z", "", re.sub(r"\A\s*\[\d+\]", "", text))


def drop_tags(text: str) -> str:
    """Step 8: "<b>" becomes a space."""
    return re.sub(r"<[^<]+?>", " ", text)


def drop_urls(text: str) -> str:
    """Step 9: "https://example.com" goes, up to the next white space."""
    return re.sub(r"http\S+", "", text)


def join_thousands(text: str) -> str:
    """Step 10: "1,234,567" becomes "1234567". Twice: a match also takes the digits around it."""
    for _ in range(2):
        text = re.sub(r"(\d),(\d{3})", r"\1\2", text)
    return text


def protect_dots(text: str) -> str:
    """Step 11: the dot of "3.14". Both neighbours are taken, so only the first of "1.2.3"."""
    return re.sub(r"(\w)\.(\w)", rf"\1{DOT}\2", text)


def protect_apostrophes(text: str) -> str:
    """Step 12: the apostrophe of "it's", "don't", "we'll", whatever stands before it."""
    return re.sub(r"'(?=(?:s|t|d|m|ll|re|ve)\b)", APOSTROPHE, text)


def protect_slashes(text: str) -> str:
    """Step 13: the slash of "1/2"."""
    return re.sub(r"(\d)/(\d)", rf"\1{SLASH}\2", text)


def split_hyphens_and_signs(text: str) -> str:
    """Step 14: "well-known" becomes "well known", and "50%" becomes "50 % "."""
    return re.sub(r"([%&/$*])", r" \1 ", re.sub(r"(\w)-(\w)", r"\1 \2", text))


def drop_joiners(text: str) -> str:
    """Step 16: "snake_case" becomes "snake case"; a # or a backslash becomes a space, too."""
    return re.sub(r"[_#\\]", " ", text)


def unify_quotes(text: str) -> str:
    """Step 17: every quotation mark that is left becomes " with spaces around it."""
    return re.sub("['\"`]", ' " ', text)


def marks_to_commas(text: str) -> str:
    """Step 18: every other mark becomes a comma."""
    return re.sub(r"[()\[\].,|:;?!=+~\-/{}]", ",", text)


def restore_protected(text: str) -> str:
    """Step 19: what steps 11 to 13 had hidden comes back."""
    return text.replace(DOT, ".").replace(APOSTROPHE, "'").replace(SLASH, "/")


def shorten_repeats(text: str) -> str:
    """Step 20: "sooooo" becomes "so": what is no digit, and stands there four times or more."""
    return re.sub(r"(\D)\1{3,}", r"\1", text)


def merge_quotes(text: str) -> str:
    """Step 21: a run of quotation marks and spaces becomes one mark."""
    return re.sub(r'"[\s"]*', ' " ', text)


def merge_commas(text: str) -> str:
    """Step 22: a run of commas and spaces becomes one comma."""
    # Spaces first: `\s*,[\s,]*` would take n² steps on n spaces that no comma follows.
    return re.sub(r" ?,[ ,]*", ", ", merge_spaces(text))


def merge_spaces(text: str) -> str:
    """Step 23: a run of white space becomes one space."""
    return re.sub(r"\s+", " ", text)


def trim(text: str) -> str:
    """Step 24: no space and no comma at the ends."""
    return text.strip().removesuffix(",").removeprefix(",").strip()


def prepend_space(text: str) -> str:
    """Step 25: the first word looks to the tokenizer like any other."""
    return " " + text
