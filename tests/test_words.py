"""The vocabulary: keys, errors, and what an import costs."""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

import objrepo
from objrepo.errors import (
    CorruptObjectError,
    NotInitialisedError,
    ObjectNotFoundError,
    RepositoryBusyError,
    RepositoryClosedError,
    RepositoryError,
)
from objrepo.keys import is_key, new_uuid4, require_str
from objrepo.testing.fixtures import BAD_KEYS, NOT_STRINGS


class TestKeys:
    @pytest.mark.parametrize("key_format", ["sha1", "sha256", "uuid4"])
    def test_what_no_key_looks_like(self, key_format):
        for value in (*BAD_KEYS, *NOT_STRINGS):
            assert not is_key(value, key_format), value

    @given(st.text())
    def test_any_text(self, text):
        for key_format, length in (("sha1", 40), ("sha256", 64)):
            assert is_key(text, key_format) == (len(text) == length and set(text) <= set("0123456789abcdef"))

    @given(st.uuids(version=4))
    def test_uuids(self, value):
        assert is_key(str(value), "uuid4")
        assert not is_key(value.hex, "uuid4")
        assert not is_key(str(value).upper(), "uuid4") or str(value).isdecimal()
        assert not is_key(str(uuid.uuid1()), "uuid4")

    def test_new_keys_are_keys(self):
        assert is_key(new_uuid4(), "uuid4")
        assert new_uuid4() != new_uuid4()

    def test_an_unknown_format(self):
        with pytest.raises(ValueError, match="unknown key format 'md5': expected one of sha1, sha256, uuid4"):
            is_key("0" * 32, "md5")

    def test_checked_key(self):
        assert require_str("anything") == "anything"
        for value in NOT_STRINGS:
            with pytest.raises(TypeError, match="a key is a str, not"):
                require_str(value)


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "builtin"),
        [
            (ObjectNotFoundError(["key"], "there"), FileNotFoundError),
            (CorruptObjectError("key", "it is torn"), OSError),
            (NotInitialisedError("not yet"), RuntimeError),
            (RepositoryBusyError("not now"), TimeoutError),
            (RepositoryClosedError("no more"), ValueError),
        ],
    )
    def test_each_is_the_builtin_that_callers_catch(self, error, builtin):
        assert isinstance(error, builtin)
        assert isinstance(error, RepositoryError)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)

    def test_what_is_missing(self):
        one = ObjectNotFoundError(["key"], "there")
        assert (str(one), one.errno) == ("object does not exist in there: 'key'", errno.ENOENT)
        many = ObjectNotFoundError(f"{number}" for number in range(12))
        assert str(many) == "objects do not exist: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 2 more"
        assert len(many.keys) == 12
        assert str(ObjectNotFoundError(["\n\x1b[31m" + "a" * 10_000])).endswith("… (10006 characters)")
        assert "\x1b" not in str(ObjectNotFoundError(["\x1b[31m"])), "nothing that a terminal would obey"

    def test_what_is_damaged(self):
        error = CorruptObjectError("key", "it is torn")
        assert (str(error), error.key, error.reason) == ("object 'key' is damaged: it is torn", "key", "it is torn")
        assert error.errno == errno.EIO


class TestImport:
    def test_public_names(self):
        for name in objrepo.__all__:
            assert getattr(objrepo, name).__doc__
            assert name in dir(objrepo)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            objrepo.nothing  # noqa: B018

    @pytest.mark.parametrize("module", ["objrepo", "objrepo.disk", "objrepo.sync", "objrepo.memory", "objrepo.sandbox"])
    def test_what_is_not_imported(self, module):
        script = f"""
import sys, {module}
print([name for name in ("sqlalchemy", "disk_objectstore", "click", "rich", "aiofiles", "trio", "filelock", "asyncio")
       if name in sys.modules])
"""
        assert (
            subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
        )

    def test_an_import_costs_less_than_twice_that_of_anyio(self):
        """Counted, not timed: what an import runs are modules, and their code is what takes the time."""
        script = "import sys; before = set(sys.modules); import {0}; print(len(set(sys.modules) - before))"
        counts = {
            module: int(
                subprocess.run([sys.executable, "-c", script.format(module)], capture_output=True, check=True).stdout
            )
            for module in ("anyio", "objrepo")
        }
        assert counts["objrepo"] < 2 * counts["anyio"], counts
