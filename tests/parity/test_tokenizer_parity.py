"""Our byte-level BPE against the published layout's stored cases and against `tokenizers`."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minidalle.tokenizer import SPECIAL_TOKENS, SYMBOLS, ByteLevelBPE

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tokenizer"
EMOJI = Path(__file__).parents[2] / "data" / "emoji" / "emoji64.parquet"
EXPECTED = json.loads((FIXTURES / "expected_tokenization.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=f"{case['text']!a:.30}") for case in EXPECTED["cases"]]

OURS = ByteLevelBPE.load(FIXTURES)
LIBRARY = Tokenizer.from_file(str(FIXTURES / "tokenizer.json"))

# Characters that Python's Unicode tables know ("Cn" is unassigned): the two libraries' tables
# differ on the youngest letters. Words, spaces and special tokens make the merges work.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
SPACES = st.sampled_from([" ", "  ", "\n", "\t", "\u3000", "\xa0", "\x1c"])
WORDS = st.sampled_from([" a", " cat", " painting", "aaaa", "'s", "'ll", "1234", "!!", "🚀", "é"])
PIECES = st.sampled_from([*SPECIAL_TOKENS, "<", "mask>"]) | SPACES | WORDS
TEXTS = st.lists(PIECES | st.text(CHARACTERS, max_size=5)).map("".join)
QUICK = settings(deadline=None, derandomize=True, max_examples=300)


def library_bpe(texts: list[str], vocab_size: int, min_frequency: int) -> dict:
    """The "model" part of what the library's trainer makes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"]


def assert_trained_alike(texts: list[str], vocab_size: int, min_frequency: int = 2) -> ByteLevelBPE:
    ours = ByteLevelBPE.train(texts, vocab_size, min_frequency)
    library = library_bpe(texts, vocab_size, min_frequency)
    assert ours.merges == [tuple(merge) for merge in library["merges"]]
    assert ours.vocab == library["vocab"]
    return ours


def test_vocab_size() -> None:
    assert OURS.vocab_size == len(OURS.vocab) == EXPECTED["vocab_size"]


@pytest.mark.parametrize("case", CASES)
def test_ids_no_padding_no_truncation(case: dict) -> None:
    assert OURS.encode(case["text"]) == case["ids_no_padding_no_truncation"]


@pytest.mark.parametrize("case", CASES)
def test_tokens(case: dict) -> None:
    assert ["<s>", *OURS.tokenize(case["text"]), "</s>"] == case["tokens"]


@pytest.mark.parametrize("case", CASES)
def test_decoded_skip_special(case: dict) -> None:
    assert OURS.decode(case["ids_no_padding_no_truncation"]) == case["decoded_skip_special"]


def test_input_ids_64_and_attention_mask_64() -> None:
    texts = [case["text"] for case in EXPECTED["cases"]]
    ids, mask = OURS.encode_batch(texts, length=EXPECTED["max_text_length"])
    assert ids.tolist() == [case["input_ids_64"] for case in EXPECTED["cases"]]
    assert mask.tolist() == [case["attention_mask_64"] for case in EXPECTED["cases"]]


def test_vocab_json_and_merges_txt_give_the_same_tokenizer(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((FIXTURES / name).read_bytes())
    loaded = ByteLevelBPE.load(tmp_path)
    assert (loaded.vocab, loaded.merges) == (OURS.vocab, OURS.merges)
    assert loaded.mask_strips_left is OURS.mask_strips_left is True


@QUICK
@given(TEXTS)
@example("a \u3000\t<mask>")
@example("a\x1c<mask>")
def test_any_text_has_the_library_s_ids_and_tokens(text: str) -> None:
    encoding = LIBRARY.encode(text)
    assert OURS.encode(text) == encoding.ids
    assert OURS.tokenize(text) == [LIBRARY.id_to_token(index) for index in encoding.ids[1:-1]]


@QUICK
@given(TEXTS, st.integers(2, 20))
def test_any_text_is_padded_and_cut_as_by_the_library(text: str, length: int) -> None:
    library = Tokenizer.from_str(LIBRARY.to_str())
    library.enable_truncation(length)
    library.enable_padding(length=length, pad_id=1, pad_token="<pad>")
    encoding = library.encode(text)
    ids, mask = OURS.encode_batch([text], length)
    assert ids[0].tolist() == encoding.ids
    assert mask[0].tolist() == encoding.attention_mask


@QUICK
@given(st.lists(st.integers(0, OURS.vocab_size - 1)), st.booleans())
def test_any_ids_decode_to_the_library_s_text(ids: list[int], skip: bool) -> None:
    assert OURS.decode(ids, skip) == LIBRARY.decode(ids, skip_special_tokens=skip)


@QUICK
@given(st.binary(max_size=12))
@example(b"\xf0\x9f\x9a")
@example(b"\xed\xa0\x80")
def test_bytes_that_are_no_text_decode_as_in_the_library(content: bytes) -> None:
    ids = [OURS.vocab[SYMBOLS[byte]] for byte in content]
    assert OURS.decode(ids) == LIBRARY.decode(ids)


@settings(QUICK, max_examples=60)
@given(st.lists(st.text("ab cd1'sé", max_size=30), max_size=10), st.integers(1, 3))
@example(["aaa aaaa aaaaa"], 1)
def test_small_corpora_train_alike(texts: list[str], min_frequency: int) -> None:
    assert_trained_alike(texts, 300, min_frequency)


def test_special_tokens_in_a_corpus_are_ordinary_text_to_the_trainer() -> None:
    assert_trained_alike(["<mask> <mask> </s></s> <s><s> <pad>"], 300, min_frequency=1)


def test_ten_thousand_equal_letters_have_the_library_s_ids() -> None:
    for text in ("z" * 10_000, "the" * 3_000, "中" * 5_000, " " * 10_000 + "<mask>"):
        assert OURS.encode(text) == LIBRARY.encode(text).ids


@pytest.fixture(scope="module")
def captions() -> list[str]:
    rows = pq.read_table(EMOJI, columns=["label", "style", "tags"]).to_pylist()
    forms = (
        lambda row: f" {row['label']}, {row['style']} style",
        lambda row: f" {row['style']} emoji of {row['label']}",
        lambda row: f" {row['label']} ({', '.join(row['tags'][:3])}), {row['style']} style",
    )
    return [form(row) for form in forms for row in rows]


@pytest.mark.parametrize(("vocab_size", "min_frequency"), [(4096, 2), (10_000, 1), (1000, 500)])
def test_emoji_captions_train_alike(
    captions: list[str], vocab_size: int, min_frequency: int
) -> None:
    ours = assert_trained_alike(captions, vocab_size, min_frequency)
    assert (ours.vocab_size == vocab_size) == (vocab_size == 4096)  # the others run out of pairs


def test_what_we_train_and_save_is_what_the_library_loads(
    captions: list[str], tmp_path: Path
) -> None:
    ours = ByteLevelBPE.train(captions, 2000)
    library = Tokenizer.from_file(str(ours.save(tmp_path)))
    texts = [*captions[::500], *(case["text"] for case in EXPECTED["cases"])]
    for text in texts:
        ids = ours.encode(text)
        assert ids == library.encode(text).ids
        assert ours.decode(ids) == library.decode(ids)


def test_what_the_library_trains_and_saves_loads_here(tmp_path: Path) -> None:
    """There a plain `<mask>` keeps the white space before it, so it must here."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        ["a cat and a cat"],
        trainers.BpeTrainer(
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = ByteLevelBPE.load(tmp_path)
    for text in (" a cat", " a <mask> cat", "<s>"):
        assert ours.encode(text) == [0, *tokenizer.encode(text).ids, 2]
    ours.save(tmp_path)
    assert ByteLevelBPE.load(tmp_path).mask_strips_left is False
