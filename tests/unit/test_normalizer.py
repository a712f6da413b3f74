"""The caption clean-up step by step, at its edges, and in linear time."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidalle import normalizer
from minidalle.normalizer import PERSONS, TextNormalizer

WORDS = Path(__file__).parents[1] / "fixtures" / "text_normalizer" / "enwiki-words-frequency.txt"
PLAIN = TextNormalizer()
WITH_WORDS = TextNormalizer(WORDS)


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        ("unescape_html", "&amp;lt; &amp;amp; &#x41;", "< & A"),
        ("unescape_html", "&amp;amp;amp;", "&amp;"),
        ("name_emoji", "a 🚀\u2764\ufe0f", "a :rocket::red_heart:"),
        ("drop_references", "[1] a [2] b [34]", " a [2] b "),
        ("drop_tags", "a<b>c</b> 1 < 2", "a c  1 < 2"),
        ("drop_urls", "see http://a.b/c?d=e, or https://f\nnow http", "see  or \nnow http"),
        ("join_thousands", "1,234,567,890 1,23 a,234", "1234567890 1,23 a,234"),
        ("protect_dots", "3.14 a.b.c . x.", "3D14 aDb.c . x."),
        ("protect_apostrophes", "it's 'tis 're we'll 's 'so", "itAs 'tis Are weAll As 'so"),
        ("protect_slashes", "1/2/3 a/b", "1S2/3 a/b"),
        ("split_hyphens_and_signs", "a-b-c - 5%&x", "a b-c - 5 %  & x"),
        ("drop_joiners", "a_b#c\\d", "a b c d"),
        ("unify_quotes", "'a' `b` \"c\"", ' " a "   " b "   " c " '),
        ("marks_to_commas", "()[].,|:;?!=+~-/{}a@*", ",,,,,,,,,,,,,,,,,,a@*"),
        ("restore_protected", "3D14 itAs 1S2", "3.14 it's 1/2"),
        ("shorten_repeats", "sooo soooo 11111 ,,,,, ", "sooo so 11111 , "),
        ("merge_quotes", 'a "" " b', 'a  " b'),
        ("merge_commas", "a ,, , b , c,d", "a, b, c, d"),
        ("merge_spaces", "a  b\n\tc", "a b c"),
        ("trim", " , a, ", "a"),
        ("trim", "a,,", "a,"),
        ("prepend_space", "a", " a"),
    ],
)
def test_step(step: str, text: str, expected: str) -> None:
    assert getattr(normalizer, step)(text) == expected


def test_there_are_25_steps_in_order_and_they_are_the_whole() -> None:
    text = "It's 5:30pm in #NewYorkCity 🚀!!"
    assert len(WITH_WORDS.steps) == 25
    for step in WITH_WORDS.steps:
        text = step(text)
    assert text == WITH_WORDS("It's 5:30pm in #NewYorkCity 🚀!!")
    assert text == " it's 5, 30pm in new york city, rocket"


def test_the_order_of_steps_matters() -> None:
    assert PLAIN('<a href="http://a.b">c</a>') == " c"  # tags before addresses
    assert PLAIN('"a",b') == ' " a ", b'  # quotation marks before commas
    assert PLAIN("&lt;PERSON&gt;") == " a person"  # escapes, capitals, persons, tags


# Persons


def test_a_person_has_no_name_unless_one_is_drawn() -> None:
    assert PLAIN("<PERSON> and a dog") == " a person and a dog"
    assert PLAIN("photo of<person>.") == " photo of a person"


@pytest.mark.parametrize("between", [" and ", ", ", " , and, ", "", "andand"])
def test_several_persons_are_people(between: str) -> None:
    assert PLAIN(f"a <person>{between}<person>{between}<person> b") == " a people b"


def test_persons_apart_stay_apart() -> None:
    assert PLAIN("<person> or <person>") == " a person or a person"


def test_a_generator_draws_persons_by_weight_and_again_the_same() -> None:
    text = " x ".join(["<person>"] * 2000)
    drawn = TextNormalizer(person=random.Random(0))(text)
    assert drawn == TextNormalizer(person=random.Random(0))(text)
    assert drawn != TextNormalizer(person=random.Random(1))(text)
    total = sum(PERSONS.values())
    for words, weight in PERSONS.items():
        assert drawn.count(words) / 2000 == pytest.approx(weight / total, abs=0.03)


# Emoji


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("😡", " pouting face"),  # enraged face now
        ("🇹🇷", " turkey"),  # Türkiye now
        ("🇦🇹🇷🇺", " austria, russia"),  # holds T and R side by side
        ("🇸🇭 🇨🇩", " st. helena, congo kinshasa"),
        ("🧑\u200d🎄 💤", " mx claus, zzz"),  # capitals now
        ("🫠", " melting face"),
        ("🫨", " shaking face"),  # younger than emoji 1.7.0
    ],
)
def test_emoji_have_the_names_the_models_learned(text: str, expected: str) -> None:
    assert PLAIN(text) == expected


# Hashtags


def test_hashtags_without_a_word_list_stay_one_word() -> None:
    assert PLAIN("#NewYorkCity #2022") == " newyorkcity 2022"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#NEWYORKCITY", " new york city"),
        ("#newyork_photooftheday", " new york photo of the day"),
        ("#newyork's", " new york's"),
        ("#dayxyzzy2022", " day x y z z y 2022"),
        ("# newyork", " newyork"),
    ],
)
def test_hashtags_with_a_word_list(text: str, expected: str) -> None:
    assert WITH_WORDS(text) == expected


def test_splitting_by_hand(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("the 9\n\na 8\nthea 7\nab 6\nbc 5\n's 4\nhe 3\n")
    splitter = TextNormalizer(tmp_path / "words")
    assert splitter.words("thea") == ["the", "a"]  # ln 1 + ln 3 < ln 4
    assert splitter.words("abc") == ["a", "bc"]  # "ab" leaves "c", which is no word
    assert splitter.words("the's") == ["the's"]
    assert splitter.words("a'bc") == ["a", "b", "c"]  # no word is "'", so nothing after it counts
    assert splitter.words("a12") == ["a", "12"]
    assert splitter.words("") == []
    assert splitter.split_hashtag("the_a") == "the a"


def test_costs_are_logarithms_of_ranks(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("\n\na\nb" + "\n" * 6 + "ab\n")
    # Ranks 3, 4 and 10: ln 3 + ln 4 > ln 10, though 3 + 4 < 10.
    assert TextNormalizer(tmp_path / "words").words("ab") == ["ab"]


def test_capitals_do_not_matter_to_the_look_up() -> None:
    assert WITH_WORDS.split_hashtag("NewYorkCITY") == "New York CITY"


def test_equal_costs_take_the_shorter_last_word(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("\nab\n\nb\n\na\n")  # ranks 2, 4, 6
    assert TextNormalizer(tmp_path / "words").words("ab") == ["ab"]
    (tmp_path / "words").write_text("a\nab\nb\n".replace("\n", " 1\n"))  # ln 1 + ln 3 > ln 2
    assert TextNormalizer(tmp_path / "words").words("ab") == ["ab"]
    (tmp_path / "words").write_text("a\nb\n")
    assert TextNormalizer(tmp_path / "words").words("xyab") == ["x", "y", "a", "b"]


def test_a_missing_word_list(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"words: found no word list; word_list=None"):
        TextNormalizer(tmp_path / "words")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_word_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "words").write_bytes(content)
    with pytest.raises(ValueError, match="words: found no words, expected one a line"):
        TextNormalizer(str(tmp_path / "words"))


def test_a_word_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"the \xff\n")
    with pytest.raises(ValueError, match="words: found other bytes, expected UTF-8 text"):
        TextNormalizer(tmp_path / "words")


# Edges


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text())
def test_any_text_becomes_lower_case_ascii_with_one_leading_space(text: str) -> None:
    for clean in (PLAIN(text), WITH_WORDS(text)):
        assert clean.isascii()
        assert clean == clean.lower()
        assert clean == " " + " ".join(clean.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", " "), (" \n ", " "), (",", " "), ("\ud83d\ude80", " rocket"), ("a\ud800b", " ab")],
)
def test_little_or_broken_text(text: str, expected: str) -> None:
    assert PLAIN(text) == expected


def test_right_to_left_text() -> None:
    assert PLAIN("\u202eقطة\u202c") == " qt@"  # as unidecode writes it


PIECES = (
    "a",
    "é",
    "中",
    "🚀",
    "😡\u200d",
    "\u0301",
    " ",
    " \n",
    "\r",
    "(\n",
    ", ",
    "1,000",
    "1.",
    "1/",
)
MARKS = (
    '"',
    "'",
    "`\"'",
    "'s",
    "-a",
    "[1",
    "[1] ",
    "#",
    "#ab",
    "http",
    "&amp;",
    "<",
    "<a ",
    "and,",
)
PERSON = ("<person>", "<person> ", "<person> and ", "<person> ,")


@pytest.mark.parametrize("piece", [*PIECES, *MARKS, *PERSON])
def test_ten_thousand_characters(piece: str) -> None:
    """A pattern that takes n² steps would take seconds here, one that takes 2ⁿ would never end."""
    assert WITH_WORDS((piece * 10_000)[:10_000]).startswith(" ")


@pytest.mark.parametrize("number", ["1" * 9000, "0" * 9000 + "65"])
def test_a_character_reference_longer_than_python_reads(number: str) -> None:
    assert PLAIN(f"a &#{number}; b &amp;#{number}; c") == " a b c"
