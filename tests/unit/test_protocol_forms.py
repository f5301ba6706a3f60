"""Digests, ids, limits and cleaned text: the small rules that both sides must agree on to the letter."""

import hashlib
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoresearch import limits
from autoresearch.digest import is_key_id, is_machine_id, is_sha256, key_id, sha256_hex
from autoresearch.text import clean_line, clean_text, is_line

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=200)  # lone surrogates too


class TestDigest:
    def test_of_nothing(self) -> None:
        assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    def test_key_id_is_the_start_of_the_keys_digest(self) -> None:
        """RFC 8032's first public key; the id checked with `sha256sum | xxd -r -p | head -c 20 | base32`."""
        key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        assert key_id(key) == "eh7ddx5bksrgcytl7bkai36se4nxx3kl"

    @given(st.binary(max_size=64))
    def test_what_is_made_has_the_form_that_is_accepted(self, data: bytes) -> None:
        assert is_sha256(sha256_hex(data))
        assert is_key_id(key_id(data))
        assert is_machine_id(hashlib.md5(data, usedforsecurity=False).hexdigest())

    @pytest.mark.parametrize("form", [is_sha256, is_key_id, is_machine_id])
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: "",
            lambda text: text[:-1],
            lambda text: text + "a",
            lambda text: text + "\n",
            lambda text: " " + text[1:],
            lambda text: text.upper(),
            lambda text: "٣" + text[1:],  # a digit, but not an ASCII one
            lambda text: "../" + text[3:],
        ],
    )
    def test_nothing_else_is_accepted(self, form: Callable[[str], bool], spoil: Callable[[str], str]) -> None:
        text = next(text for text in ("ab" * 32, "ab" * 16) if form(text))
        assert not form(spoil(text))


class TestLimits:
    def test_smaller_ones_fit_into_larger_ones(self) -> None:
        utf8_bytes = 4
        patch = limits.DIFF_BYTES + utf8_bytes * (limits.RATIONALE_CHARACTERS + limits.TITLE_CHARACTERS)
        result = utf8_bytes * (limits.LOG_TAIL_CHARACTERS + limits.REASON_CHARACTERS) + 16 * limits.LOSS_POINTS
        assert patch < limits.ENVELOPE_BYTES / 2
        assert result < limits.ENVELOPE_BYTES / 2
        assert limits.SOURCE_BYTES < limits.MESSAGE_BYTES / 2
        assert limits.ENVELOPE_BYTES < limits.MESSAGE_BYTES / 2
        assert limits.CHUNK_BYTES < limits.MESSAGE_BYTES / 2
        assert limits.ENVELOPE_BYTES * 4 / 3 < limits.LEDGER_LINE_BYTES

    def test_each_is_a_positive_number(self) -> None:
        values = [value for name, value in vars(limits).items() if name.isupper()]
        assert len(values) > 15
        assert all(isinstance(value, int | float) and value > 0 for value in values)


def is_safe(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class TestText:
    @given(ANY_TEXT, st.integers(1, 50))
    @example("\u202egnp.exe\u2028\x1b[31m", 50)
    def test_a_cleaned_line_may_be_shown(self, text: str, most: int) -> None:
        line = clean_line(text, most)
        assert line == "" or is_line(line, most)
        assert clean_line(line, most) == line

    @given(ANY_TEXT, st.integers(1, 50))
    def test_cleaned_text_may_be_shown(self, text: str, most: int) -> None:
        cleaned = clean_text(text, most)
        assert len(cleaned) <= most
        assert all(is_safe(character) or character in "\n\t" for character in cleaned)

    def test_escape_sequences_lose_their_power(self) -> None:
        assert clean_line("step 1\x1b[2J\x1b]0;gone\x07\r\nstep 2", 80) == "step 1 [2J ]0;gone step 2"
        assert clean_text("step 1\x1b[2J\r\nstep 2\n", 80) == "step 1[2J\nstep 2\n"

    def test_a_long_line_says_that_it_goes_on_and_a_long_log_keeps_its_end(self) -> None:
        assert clean_line("abcdef", 4) == "abc…"
        assert clean_line("abcd", 4) == "abcd"
        assert clean_text("first\nlast", 4) == "last"

    @pytest.mark.parametrize("name", ["Ada", "Łukasz ☕", "名無し", "x" * 40])
    def test_names_of_people(self, name: str) -> None:
        assert is_line(name, 40)
        assert clean_line(name, 40) == name

    @pytest.mark.parametrize("name", ["", " ", "\u00a0", "a\nb", "a\u202eb", "a\u200bb", "a\0", "\ud800", "x" * 41])
    def test_no_names(self, name: str) -> None:
        assert not is_line(name, 40)
