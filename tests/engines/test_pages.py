"""The pages of the documentation whose code needs an object store."""

from __future__ import annotations

import pytest

from test_docs import NEED_ENGINES, blocks_of, place, run_block

__all__ = ("place",)


@pytest.mark.parametrize(("language", "code"), list(blocks_of(NEED_ENGINES)))
def test_every_block_of_code(language, code, place, gateway, credentials, s3, monkeypatch):
    s3.create_bucket(Bucket="photos")
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["secret_access_key"])
    monkeypatch.setenv("AIIDA_PATH", str(place))
    run_block(language, code, place)
