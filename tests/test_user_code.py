"""The files of user code that the type checkers look at do run."""

from __future__ import annotations

import anyio

import sync_user_code
import user_code


def test_user_code(tmp_path):
    anyio.run(user_code.main, tmp_path)


def test_sync_user_code(tmp_path):
    sync_user_code.main(tmp_path)
