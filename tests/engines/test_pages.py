"""The pages of the documentation whose code needs an object store."""

from __future__ import annotations

import pytest

from helpers import PAGES_THAT_NEED_AN_OBJECT_STORE, code_blocks, run_code_block


@pytest.mark.parametrize(("language", "code"), list(code_blocks(PAGES_THAT_NEED_AN_OBJECT_STORE)))
def test_every_block_of_code(language, code, project, gateway, credentials, s3, forked_commands, monkeypatch):
    s3.create_bucket(Bucket="photos")
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["secret_access_key"])
    monkeypatch.setenv("AIIDA_PATH", str(project))
    run_code_block(language, code, project, forked_commands)
