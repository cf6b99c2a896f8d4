"""The file of user code that the type checkers look at does run."""

from __future__ import annotations

import anyio

import user_code


def test_user_code(tmp_path):
    anyio.run(user_code.main, tmp_path)
    user_code.main_sync(tmp_path)
