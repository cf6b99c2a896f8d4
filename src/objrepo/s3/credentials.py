"""Who one is to the object store: keys that were given, or else what the usual chain has, which botocore knows best."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from objrepo.errors import AccessDeniedError, RepositoryError
from objrepo.s3.options import S3Options

__all__ = ("client", "credential_options", "imported")

_ASKED_AGAIN: Final = timedelta(minutes=5)
"""After how long botocore is asked again; it renews by itself what is about to expire."""


def imported(name: str) -> Any:
    """Import a package that the extra installs.

    :raises RepositoryError: if it is not there; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RepositoryError(f"{error.name} is missing, which S3 needs: pip install 'objrepo[s3]'") from error


def credential_options(options: S3Options) -> dict[str, Any]:
    """Return how obstore is told of credentials, and of the region.

    :raises AccessDeniedError: if none are found.
    """
    if options.anonymous:
        return {"skip_signature": True, "region": options.region or "us-east-1"}
    if options.access_key_id is not None:
        keys = {"access_key_id": options.access_key_id, "secret_access_key": options.secret_access_key}
        token = {} if options.session_token is None else {"session_token": options.session_token}
        return {"region": options.region or "us-east-1", **keys, **token}
    session = _session(options)
    found = session.get_credentials()
    if found is None:
        raise AccessDeniedError(
            f"no credentials for {options.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile, "
            "or pass anonymous=True for a public bucket"
        )

    def provide() -> dict[str, Any]:
        keys = found.get_frozen_credentials()
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(UTC) + _ASKED_AGAIN,
        }

    region = options.region or session.get_config_variable("region") or "us-east-1"
    return {"region": region, "credential_provider": provide}


def client(options: S3Options) -> Any:
    """Return botocore's client for the bucket: for what obstore has no function for."""
    config = imported("botocore.config").Config(
        connect_timeout=options.timeout,
        read_timeout=options.timeout,
        retries={"mode": "standard", "total_max_attempts": 4},
        signature_version=imported("botocore").UNSIGNED if options.anonymous else "s3v4",
        s3={"addressing_style": "virtual" if options.virtual_hosted_style else "path"},
    )
    session = _session(options)
    return session.create_client(
        "s3",
        region_name=options.region or session.get_config_variable("region") or "us-east-1",
        endpoint_url=options.endpoint,
        aws_access_key_id=options.access_key_id,
        aws_secret_access_key=options.secret_access_key,
        aws_session_token=options.session_token,
        config=config,
    )


def _session(options: S3Options) -> Any:
    session = imported("botocore.session").Session(profile=options.profile)
    try:
        session.get_scoped_config()
    except imported("botocore.exceptions").BotoCoreError as error:
        raise AccessDeniedError(f"no credentials for {options.url}: {error}") from error
    return session
