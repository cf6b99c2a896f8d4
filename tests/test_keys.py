"""Key formats and the validation of keys."""

from __future__ import annotations

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objrepo.keys import is_key, key_pattern, new_uuid4, require_str, valid_keys
from objrepo.testing.fixtures import BAD_KEYS, NOT_STRINGS

GOOD = {
    "sha1": [hashlib.sha1(b"%d" % number).hexdigest() for number in range(50)],
    "sha256": [hashlib.sha256(b"%d" % number).hexdigest() for number in range(50)],
    "uuid4": [str(uuid.uuid4()) for _ in range(50)],
}


@pytest.mark.parametrize("key_format", GOOD)
def test_keys_of_the_format_are_valid_and_other_values_are_not(key_format):
    assert all(is_key(key, key_format) for key in GOOD[key_format])
    others = [key for name, keys in GOOD.items() if name != key_format for key in keys]
    for value in (*BAD_KEYS, *NOT_STRINGS, *others):
        assert not is_key(value, key_format), value


@given(st.text() | st.text("0123456789abcdefABCDEF", min_size=38, max_size=66))
def test_hashes_are_lower_case_hexadecimal_digits_of_the_right_number(text):
    for key_format, length in (("sha1", 40), ("sha256", 64)):
        assert is_key(text, key_format) == (len(text) == length and set(text) <= set("0123456789abcdef"))


@given(st.uuids(version=4))
def test_uuids_are_of_version_4_in_lower_case_with_hyphens(value):
    text = str(value)
    assert is_key(text, "uuid4")
    assert not is_key(value.hex, "uuid4")
    assert is_key(text.upper(), "uuid4") == (text.upper() == text)
    assert not is_key(str(uuid.UUID(int=value.int, version=1)), "uuid4")


def test_new_keys_are_valid_and_differ():
    assert is_key(new_uuid4(), "uuid4")
    assert new_uuid4() != new_uuid4()


def test_an_unknown_format_raises_value_error():
    for use in (is_key, valid_keys):
        for key in ("0" * 32, None):
            with pytest.raises(ValueError, match="unknown key format 'md5': expected one of sha1, sha256, uuid4"):
                use([key] if use is valid_keys else key, "md5")
    with pytest.raises(ValueError, match="unknown key format"):
        key_pattern("md5")


@pytest.mark.parametrize("key_format", GOOD)
def test_valid_keys_agrees_with_is_key(key_format):
    good = GOOD[key_format]
    assert valid_keys(iter(good), key_format) == good
    assert valid_keys([], key_format) == []
    every_length = ["e" * length for length in (39, 40, 41, 63, 64, 65)]
    for bad in (*BAD_KEYS, *NOT_STRINGS, *every_length, "g" * 40, "g" * 64, "A" * 40, ["a"] * 40, ["a"] * 64):
        mixed = [*good[:3], bad, *good[3:]]
        assert valid_keys(mixed, key_format) == [key for key in mixed if is_key(key, key_format)], bad
        assert valid_keys([bad], key_format) == ([bad] if is_key(bad, key_format) else []), bad


def test_require_str_refuses_other_types():
    assert require_str("anything") == "anything"
    for value in NOT_STRINGS:
        with pytest.raises(TypeError, match="a key is a str, not"):
            require_str(value)
