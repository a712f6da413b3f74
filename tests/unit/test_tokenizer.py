"""Byte-level BPE on its own: round trips, training by hand, files, edges and every error."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minidalle.tokenizer import (
    BYTES,
    SPECIAL_TOKENS,
    SYMBOLS,
    ByteLevelBPE,
    apply_merges,
    byte_symbols,
    replace_pair,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tokenizer"
TOKENIZER = ByteLevelBPE.load(FIXTURES)
DOCUMENT = json.loads((FIXTURES / "tokenizer.json").read_text(encoding="utf-8"))
BYTE_IDS = {s: i for i, s in enumerate([*SPECIAL_TOKENS, *sorted(SYMBOLS)])}
QUICK = settings(deadline=None, derandomize=True, max_examples=300)
TEXTS = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: not any(token in text for token in SPECIAL_TOKENS)
)


def test_byte_symbols_are_256_visible_characters() -> None:
    assert len(set(byte_symbols())) == 256
    assert not any(symbol.isspace() or not symbol.isprintable() for symbol in SYMBOLS)
    assert (SYMBOLS[ord(" ")], SYMBOLS[ord("a")], SYMBOLS[0xAD], BYTES["Ċ"]) == ("Ġ", "a", "Ń", 10)


# Round trips and edges


@QUICK
@given(TEXTS)
def test_decode_of_encode_is_the_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@QUICK
@given(TEXTS)
def test_tokens_are_in_the_vocabulary_and_spell_the_text(text: str) -> None:
    tokens = TOKENIZER.tokenize(text)
    assert [TOKENIZER.vocab[token] for token in tokens] == TOKENIZER.encode(text)[1:-1]
    assert bytes(BYTES[symbol] for symbol in "".join(tokens)) == text.encode()


def test_special_ids() -> None:
    ids = (TOKENIZER.BOS, TOKENIZER.PAD, TOKENIZER.EOS, TOKENIZER.UNK, TOKENIZER.MASK)
    assert ids == tuple(TOKENIZER.vocab[token] for token in SPECIAL_TOKENS) == (0, 1, 2, 3, 4)


def test_the_mask_swallows_the_white_space_before_it_only() -> None:
    assert TOKENIZER.tokenize("a \t\u3000<mask> a") == ["a", "<mask>", "Ġa"]
    kept = ByteLevelBPE(TOKENIZER.vocab, TOKENIZER.merges, mask_strips_left=False)
    assert kept.tokenize("a <mask> a") == ["a", "Ġ", "<mask>", "Ġa"]
    assert TOKENIZER.tokenize("a </s>") == ["a", "Ġ", "</s>"]


def test_decode_with_special_tokens_and_of_a_tensor() -> None:
    ids = TOKENIZER.encode(" a cat")
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == "<s> a cat</s>"
    assert TOKENIZER.decode(torch.tensor(ids)) == " a cat"


def test_decode_of_half_a_character() -> None:
    rocket = [TOKENIZER.vocab[SYMBOLS[byte]] for byte in "🚀".encode()]
    assert TOKENIZER.decode(rocket) == "🚀"
    assert TOKENIZER.decode([*rocket[:3], TOKENIZER.vocab["a"]]) == "\ufffda"


@pytest.mark.parametrize("wrong", [-1, 607])
def test_decode_refuses_ids_outside_the_vocabulary(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"ids: found {wrong}, expected 0 … 606"):
        TOKENIZER.decode([5, wrong])


def test_encode_batch_pads_and_cuts() -> None:
    ids, mask = TOKENIZER.encode_batch([" a cat", ""], length=4)
    assert ids.tolist() == [[0, 261, 350, 2], [0, 2, 1, 1]]  # "t" is cut, </s> stays
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.long
    assert TOKENIZER.encode_batch([])[0].shape == TOKENIZER.encode_batch([])[1].shape == (0, 64)


def test_encode_batch_refuses_a_length_without_room() -> None:
    with pytest.raises(ValueError, match="length: found 1, expected at least 2"):
        TOKENIZER.encode_batch(["a"], length=1)


def test_one_string_is_no_list_of_texts() -> None:
    with pytest.raises(TypeError, match="texts: found one string"):
        TOKENIZER.encode_batch("a cat")
    with pytest.raises(TypeError, match="texts: found one string"):
        ByteLevelBPE.train("a cat", 300)


def test_what_is_no_string_is_refused() -> None:
    with pytest.raises(TypeError, match="text: found NoneType, expected a string"):
        TOKENIZER.encode(None)


def test_lone_surrogates_are_refused_with_their_place() -> None:
    for use in (TOKENIZER.encode, TOKENIZER.tokenize, lambda text: ByteLevelBPE.train([text], 300)):
        with pytest.raises(ValueError, match=r"lone surrogate '\\ud83d' at character 2;"):
            use("a \ud83d")


def test_the_cache_is_bounded_belongs_to_the_instance_and_changes_nothing() -> None:
    tokenizer = ByteLevelBPE(TOKENIZER.vocab, TOKENIZER.merges)
    tokenizer.CACHE_SIZE = 3
    for _ in range(2):
        for text in (" a cat", "the painting of a fox in the snow", "x y z"):
            assert tokenizer.encode(text) == TOKENIZER.encode(text)
            assert 0 < len(tokenizer._cache) <= 3
    assert ByteLevelBPE(TOKENIZER.vocab, TOKENIZER.merges)._cache == {}


def test_it_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(TOKENIZER)).encode(" a cat") == TOKENIZER.encode(" a cat")


# Training and merging, by hand


def test_training_by_hand() -> None:
    """Two merges that can be counted by eye."""
    trained = ByteLevelBPE.train(["ab abc", "abc", "xy"], 1000)
    # At first a·b 3, b·c 2, Ġ·a 1, x·y 1. With ab joined, ab·c 2, and nothing else twice.
    assert trained.merges == [("a", "b"), ("ab", "c")]
    assert trained.vocab == {**BYTE_IDS, "ab": 261, "abc": 262}


def test_of_equally_frequent_pairs_the_one_with_smaller_ids_is_first() -> None:
    texts = ["zy", "zx", "ay", "az"] * 2  # each pair twice; left id decides, then right id
    assert ByteLevelBPE.train(texts, 1000).merges == [
        ("a", "y"),
        ("a", "z"),
        ("z", "x"),
        ("z", "y"),
    ]


def test_min_frequency_and_vocab_size_end_the_training() -> None:
    texts = ["abab"] * 3 + ["cd"] * 2
    assert ByteLevelBPE.train(texts, 1000, min_frequency=3).merges == [("a", "b"), ("ab", "ab")]
    assert ByteLevelBPE.train(texts, 262, min_frequency=1).merges == [("a", "b")]
    assert ByteLevelBPE.train([], 1000).vocab == BYTE_IDS


def test_train_reads_an_iterator_once() -> None:
    assert ByteLevelBPE.train(iter(["ab", "ab"]), 1000).merges == [("a", "b")]


def test_train_refuses_a_vocabulary_smaller_than_the_bytes() -> None:
    with pytest.raises(ValueError, match="vocab_size: found 260, expected at least 261"):
        ByteLevelBPE.train(["a"], 260)


def test_replace_pair_goes_from_the_left() -> None:
    assert replace_pair([7, 7, 7], (7, 7), 9) == [9, 7]
    assert replace_pair([7, 7, 7, 7, 8], (7, 7), 9) == [9, 9, 8]
    assert replace_pair([1, 2, 1], (1, 2), 9) == [9, 1]


def test_apply_merges_takes_the_lowest_rank_then_the_leftmost() -> None:
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("a", "a"): 2, ("aa", "a"): 3}
    assert apply_merges(list("abc"), ranks) == ["a", "bc"]
    assert apply_merges(list("aaaaa"), ranks) == ["aa", "aaa"]
    assert apply_merges([], ranks) == []


# Files


def test_save_writes_the_published_layout(tmp_path: Path) -> None:
    saved = json.loads(TOKENIZER.save(tmp_path).read_text(encoding="utf-8"))
    assert saved["model"].pop("ignore_merges") is False  # younger than the published file
    assert json.dumps(saved) == json.dumps(DOCUMENT)  # equal, and in the same order


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_save_and_load(tmp_path: Path, name: str) -> None:
    TOKENIZER.save(tmp_path / "new" / "folder")
    loaded = ByteLevelBPE.load(str(tmp_path / "new" / "folder" / name))
    assert (loaded.vocab, loaded.merges) == (TOKENIZER.vocab, TOKENIZER.merges)
    assert os.listdir(tmp_path / "new" / "folder") == ["tokenizer.json"]


@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_save_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    TOKENIZER.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def half_written(self: Path, content: str, **_: Any) -> None:
        self.write_bytes(content[:100].encode())
        raise OSError(28, "No space left on device")

    def not_renamed(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if where == "write":
        monkeypatch.setattr(Path, "write_text", half_written)
    else:
        monkeypatch.setattr(os, "replace", not_renamed)
    with pytest.raises(OSError, match="No space left"):
        ByteLevelBPE(BYTE_IDS, []).save(tmp_path)
    assert os.listdir(tmp_path) == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_bytes() == before


def test_merges_as_pairs_and_a_merges_file_without_header(tmp_path: Path) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["model"]["merges"] = [merge.split(" ") for merge in document["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert ByteLevelBPE.load(tmp_path).merges == TOKENIZER.merges

    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_bytes((FIXTURES / "vocab.json").read_bytes())
    lines = (FIXTURES / "merges.txt").read_bytes().split(b"\n")
    (tmp_path / "merges.txt").write_bytes(b"\r\n".join(lines[1:]))
    assert ByteLevelBPE.load(tmp_path).merges == TOKENIZER.merges


def test_fields_an_older_file_leaves_out(tmp_path: Path) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    del document["pre_tokenizer"]["use_regex"], document["model"]["type"]
    document["model"].update(continuing_subword_prefix=None, end_of_word_suffix=None)
    del document["model"]["byte_fallback"], document["post_processor"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert ByteLevelBPE.load(tmp_path).encode(" a cat") == TOKENIZER.encode(" a cat")


def test_no_tokenizer_there(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")  # merges.txt is missing
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match=r"found no tokenizer, expected .* merges\.txt"):
            ByteLevelBPE.load(path)


def put(*keys: str | int, value: Any) -> Callable[[dict], None]:
    """A change to a document: the value at document[key][key]… becomes another."""

    def change(document: dict) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


def drop(*keys: str | int) -> Callable[[dict], None]:
    """A change to a document: the value at document[key][key]… is taken out."""

    def change(document: dict) -> None:
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return change


WORDPIECE = {"type": "WordPiece", "vocab": {}}
REFUSED = {
    r"model: found null, expected an object": drop("model"),
    r"model\.type: found 'WordPiece', expected 'BPE'": put("model", value=WORDPIECE),
    r"model\.dropout: found 0\.1, expected None": put("model", "dropout", value=0.1),
    r"model\.continuing_subword_prefix: found '##', expected ''": put(
        "model", "continuing_subword_prefix", value="##"
    ),
    r"model\.end_of_word_suffix: found '</w>', expected ''": put(
        "model", "end_of_word_suffix", value="</w>"
    ),
    r"model\.byte_fallback: found True": put("model", "byte_fallback", value=True),
    r"model\.ignore_merges: found True": put("model", "ignore_merges", value=True),
    r"model\.vocab: found \[\], expected an object": put("model", "vocab", value=[]),
    r"model\.merges: found null, expected a list": drop("model", "merges"),
    r'normalizer: found {"type": "NFC"}, expected null': put("normalizer", value={"type": "NFC"}),
    r"pre_tokenizer: found null, expected an object": drop("pre_tokenizer"),
    r"pre_tokenizer\.type: found 'Whitespace', expected 'ByteLevel'": put(
        "pre_tokenizer", value={"type": "Whitespace"}
    ),
    r"pre_tokenizer\.add_prefix_space: found True, expected False": put(
        "pre_tokenizer", "add_prefix_space", value=True
    ),
    r"pre_tokenizer\.use_regex: found False": put("pre_tokenizer", "use_regex", value=False),
    r"post_processor\.type: found 'BertProcessing'": put(
        "post_processor", "type", value="BertProcessing"
    ),
    r"post_processor\.sep: found \['</s>', 1\]": put("post_processor", "sep", value=["</s>", 1]),
    r"post_processor\.cls: found \['<pad>', 1\]": put("post_processor", "cls", value=["<pad>", 1]),
    r"added_tokens: found null, expected a list": drop("added_tokens"),
    r"added_tokens\[0\]: found \"<s>\", expected an object": put("added_tokens", 0, value="<s>"),
    r"added_tokens .*: found \[\[1, '<pad>'": drop("added_tokens", 0),
    r"added_tokens .*: found .*'<s>', False, False, True": put(
        "added_tokens", 0, "rstrip", value=True
    ),
    r"added_tokens .*: found .*'<pad>', True, False": put(
        "added_tokens", 1, "single_word", value=True
    ),
    r"added_tokens .*: found .*'<s>', False, True": put("added_tokens", 0, "lstrip", value=True),
    r"vocab: <s>: found id 607, expected id 0": put("model", "vocab", "<s>", value=607),
    r"vocab: 2 byte symbols of 256 are missing: \['a', 'b'\]": lambda document: [
        drop("model", "vocab", letter)(document) for letter in "ab"
    ],
    r"vocab: expected 607 ids, each of 0 … 606 once": put("model", "vocab", "a", value=606),
    r"vocab: expected 607 ids": put("model", "vocab", "a", value=69.0),
    r"vocab: found \['中'\], expected tokens made of byte symbols": put(
        "model", "vocab", "中", value=607
    ),
    r"merges\[1\]: found 'i n g', expected two tokens": put("model", "merges", 1, value="i n g"),
    r"merges\[1\]: found \['i'\], expected two tokens": put("model", "merges", 1, value=["i"]),
    r"merges\[1\]: found 7, expected two tokens": put("model", "merges", 1, value=7),
    r"merges\[0\] 'qq' 'a': 'qq' is not in vocab": put("model", "merges", 0, value="qq a"),
    r"merges\[0\] 'q' 'q': 'qq' is not in vocab": put("model", "merges", 0, value="q q"),
}


@pytest.mark.parametrize(("message", "change"), REFUSED.items(), ids=list(REFUSED))
def test_what_a_tokenizer_json_may_not_say(
    tmp_path: Path, message: str, change: Callable[[dict], None]
) -> None:
    document = json.loads(json.dumps(DOCUMENT))
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        ByteLevelBPE.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("content", [b'{"model": ', b"\xff\xfe{}", b""])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match="damaged, expected JSON in UTF-8"):
        ByteLevelBPE.load(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="damaged, expected JSON in UTF-8"):
        ByteLevelBPE.load(tmp_path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    (tmp_path / "vocab.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"vocab\.json: found \[1\], expected an object"):
        ByteLevelBPE.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(BYTE_IDS))
    with pytest.raises(ValueError, match=r"merges\[0\]: found 'a b c', expected two tokens"):
        ByteLevelBPE.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer\.json: found \[\], expected an object"):
        ByteLevelBPE.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="vocab: <s>: found no such token, expected id 0"):
        ByteLevelBPE.load(tmp_path)
