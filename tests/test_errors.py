"""The errors: their types, attributes and messages."""

from __future__ import annotations

import errno
import io
import os
import pickle

import pytest

from objrepo.errors import (
    AccessDeniedError,
    CorruptObjectError,
    NotInitialisedError,
    ObjectNotFoundError,
    ReadOnlyError,
    RepositoryBusyError,
    RepositoryClosedError,
    RepositoryError,
    RepositoryUnavailableError,
    with_path,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ObjectNotFoundError(["key"], "there"), FileNotFoundError),
        (CorruptObjectError("key", "it is torn"), OSError),
        (NotInitialisedError("not yet"), RuntimeError),
        (RepositoryBusyError("not now"), TimeoutError),
        (RepositoryClosedError("no more"), ValueError),
        (AccessDeniedError("wrong password"), PermissionError),
        (RepositoryUnavailableError("HTTP 503"), ConnectionError),
        (ReadOnlyError("an archive"), io.UnsupportedOperation),
    ],
)
def test_each_error_is_the_builtin_that_callers_catch_and_can_be_pickled(error, builtin):
    assert isinstance(error, builtin)
    assert isinstance(error, RepositoryError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_missing_keys_are_shown_briefly_and_escaped():
    one = ObjectNotFoundError(["key"], "there")
    assert (str(one), one.errno) == ("object does not exist in there: 'key'", errno.ENOENT)
    many = ObjectNotFoundError(f"{number}" for number in range(12))
    assert str(many) == "objects do not exist: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 2 more"
    assert len(many.keys) == 12
    assert str(ObjectNotFoundError(["\n\x1b[31m" + "a" * 10_000])).endswith("… (10006 characters)")
    assert "\x1b" not in str(ObjectNotFoundError(["\x1b[31m"])), "no escape sequence reaches a terminal"


def test_damaged_objects_have_key_reason_and_errno():
    error = CorruptObjectError("key", "it is torn")
    assert (str(error), error.key, error.reason) == ("object 'key' is damaged: it is torn", "key", "it is torn")
    assert error.errno == errno.EIO


def test_with_path_adds_path_and_key_to_an_error_of_an_open_file(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError) as caught, with_path(tmp_path, "some key"):
        os.read(folder, 1)
    os.close(folder)
    assert (caught.value.errno, caught.value.filename) == (errno.EISDIR, str(tmp_path))
    assert str(caught.value) == f"[Errno 21] Is a directory (object some key): '{tmp_path}'"


def test_with_path_leaves_other_errors_as_they_are():
    for error in (
        FileNotFoundError(2, "missing", "other"),
        OSError("no errno"),
        CorruptObjectError("k", "r"),
        KeyError(),
    ):
        with pytest.raises(type(error)) as caught, with_path("path"):
            raise error
        assert caught.value is error
