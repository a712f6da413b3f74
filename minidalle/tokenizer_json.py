"""The tokenizer's files: `tokenizer.json`, or `vocab.json` beside `merges.txt`.

`tokenizer.json` is the format of the `tokenizers` library, in the one layout that DALL·E mini was
published with. A file that asks for anything else is refused by the name of the field: a tokenizer
that does nearly what the weights were trained with is worse than none.

    read_tokenizer(path)  ->  vocab, merges, mask_strips_left  ->  write_tokenizer(folder, …)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MAX_FILE = 2**24  # bytes; DALL·E mini's tokenizer.json has two million
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # ids 0 … 4, as published

# A tokenizer.json as DALL·E mini was published with, less its special tokens, vocab and merges.
LAYOUT = json.loads("""{
  "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
  "pre_tokenizer": {
    "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": {
    "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true,
    "add_prefix_space": false},
  "decoder": {
    "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
    "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false}
}""")
NO_EFFECT = ("trim_offsets", "unk_token", "fuse_unk")  # fields that change no id here


def read_tokenizer(
    path: Path, merges: Path | None = None
) -> tuple[dict[str, int], list[tuple[str, str]], bool]:
    """Vocabulary, merges and `mask_strips_left`; errors as said at `ByteLevelBPE.load`."""
    document = path / "tokenizer.json" if path.is_dir() else path
    vocab, merges = (path / "vocab.json", path / "merges.txt") if merges is None else (path, merges)
    try:
        if document != vocab and document.is_file():
            return parse_document(json.loads(read_text(document)))
        if vocab.is_file() and merges.is_file():
            expect_kind(vocab.name, ids := json.loads(read_text(vocab)), dict)
            lines = read_text(merges).split("\n")
            rules = [line for line in lines if line and not line.startswith("#version")]
            return ids, split_merges(rules), True
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, expected JSON in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    raise FileNotFoundError(
        f"{path}: found no tokenizer, expected the path of a tokenizer.json, or a folder that "
        "holds tokenizer.json, or one that holds vocab.json and merges.txt"
    )


def read_text(path: Path) -> str:
    """A file's text, unless it is much larger than any tokenizer's file."""
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, expected a few million")
    return path.read_text(encoding="utf-8")


def write_tokenizer(
    folder: Path, vocab: dict[str, int], merges: list[tuple[str, str]], mask_strips_left: bool
) -> Path:
    """Write `folder/tokenizer.json` aside, then rename it: a reader sees the old or the new one."""
    document = {**LAYOUT, "added_tokens": added_tokens(mask_strips_left)}
    pairs = [f"{left} {right}" for left, right in merges]
    document["model"] = {**LAYOUT["model"], "vocab": vocab, "merges": pairs}
    file = folder / "tokenizer.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        content = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def added_tokens(mask_strips_left: bool) -> list[dict[str, Any]]:
    """The special tokens as tokenizer.json lists them."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    kind = {"normalized": False, "special": True}
    texts = enumerate(SPECIAL_TOKENS)
    tokens = [{"id": index, "content": text, **flags, **kind} for index, text in texts]
    tokens[SPECIAL_TOKENS.index("<mask>")]["lstrip"] = mask_strips_left
    return tokens


def parse_document(document: Any) -> tuple[dict[str, int], list[tuple[str, str]], bool]:
    """Vocabulary, merges and `mask_strips_left` from a tokenizer.json that asks for no more."""
    expect_kind("tokenizer.json", document, dict)
    for section in ("normalizer", "pre_tokenizer", "post_processor", "model"):
        ours, theirs = LAYOUT[section], document.get(section)
        if section == "post_processor" and theirs is None:
            continue  # `encode` puts <s> and </s> around every text in any case
        expect_kind(section, theirs, type(ours))
        for field, expected in (ours or {}).items():
            found = theirs.get(field)
            if field not in NO_EFFECT and found not in (None, expected):
                raise ValueError(f"{section}.{field}: found {found!r}, expected {expected!r}")

    expect_kind("added_tokens", added := document.get("added_tokens"), list)
    for number, token in enumerate(added):
        expect_kind(f"added_tokens[{number}]", token, dict)
    flags = ("id", "content", "single_word", "lstrip", "rstrip")
    found = [[token.get(flag) for flag in flags] for token in added]
    strips = bool(added) and added[-1].get("lstrip") is True
    expected = [[token[flag] for flag in flags] for token in added_tokens(strips)]
    if found != expected:
        raise ValueError(f"added_tokens {flags}: found {found}, expected {expected}")

    expect_kind("model.vocab", vocab := document["model"].get("vocab"), dict)
    expect_kind("model.merges", merges := document["model"].get("merges"), list)
    specials = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    return {**specials, **vocab}, split_merges(merges), strips


def split_merges(merges: list[Any]) -> list[tuple[str, str]]:
    """Pairs of tokens, from "a b" or from ["a", "b"]: files have either."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list) or [type(token) for token in pair] != [str, str]:
            raise ValueError(f"merges[{number}]: found {merges[number]!r}, expected two tokens")
    return [(left, right) for left, right in pairs]


def expect_kind(field: str, value: Any, kind: type) -> None:
    """Raises a ValueError unless the value of a field is of this kind."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    if type(value) is not kind:
        raise ValueError(f"{field}: found {json.dumps(value):.200}, expected {names[kind]}")
