"""Credentials: the keys that were given, or those that botocore finds."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from objrepo.bucket.options import S3Options
from objrepo.errors import AccessDeniedError, RepositoryError

_MAX_AGE: Final = timedelta(minutes=5)
"""How long obstore keeps credentials before it calls botocore again, which renews those that are about to expire."""


def import_extra(name: str) -> Any:
    """Import a module of a package that the extra ``s3`` installs.

    :raises RepositoryError: if the package is missing.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RepositoryError(f"the package {error.name} is missing: pip install 'objrepo[s3]'") from error


def credential_options(options: S3Options) -> dict[str, Any]:
    """Return the options of an obstore store that set credentials and region.

    :raises AccessDeniedError: if no credentials are found.
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
            "expires_at": datetime.now(UTC) + _MAX_AGE,
        }

    region = options.region or session.get_config_variable("region") or "us-east-1"
    return {"region": region, "credential_provider": provide}


def botocore_client(options: S3Options) -> Any:
    """Return a botocore client, for requests that obstore does not have. It sends each request once."""
    config = import_extra("botocore.config").Config(
        connect_timeout=options.timeout,
        read_timeout=options.timeout,
        retries={"total_max_attempts": 1},
        signature_version=import_extra("botocore").UNSIGNED if options.anonymous else "s3v4",
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
    session = import_extra("botocore.session").Session(profile=options.profile)
    try:
        session.get_scoped_config()
    except import_extra("botocore.exceptions").BotoCoreError as error:
        raise AccessDeniedError(f"no credentials for {options.url}: {error}") from error
    return session
