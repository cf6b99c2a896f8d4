"""Switching an existing profile to another storage plugin for the same files."""

from __future__ import annotations

from typing import Final

from aiida.common.exceptions import LockedProfileError, LockingProfileError, ProfileConfigurationError
from aiida.manage.configuration import get_config
from aiida.manage.profile_access import ProfileAccessManager

_SAME_FILES: Final = (
    {"core.sqlite_dos", "objrepo.sqlite_dos"},
    {"core.psql_dos", "objrepo.psql_dos"},
)


def switch_profile(name: str, backend: str) -> str:
    """Switch a profile to another storage plugin for the same files. Only AiiDA's configuration changes.

    :param name: the name of a profile that is not in use.
    :param backend: ``objrepo.sqlite_dos`` for a profile with ``core.sqlite_dos``, ``objrepo.psql_dos`` for a profile
        with ``core.psql_dos``, or the reverse.
    :return: the name of the storage plugin that the profile used before.
    :raises ValueError: if the profile does not exist or is in use, or if the plugins store different files.
    """
    config = get_config()
    try:
        profile = config.get_profile(name)
    except ProfileConfigurationError as error:
        raise ValueError(str(error)) from None
    before = str(profile.storage_backend)
    if not any({before, backend} <= same for same in _SAME_FILES):
        raise ValueError(
            f"profile {name} uses {before}, and {backend} does not store the same files: choose a plugin that does"
        )
    try:
        with ProfileAccessManager(profile).lock():
            profile.set_storage(backend, profile.storage_config)
            config.update_profile(profile)
            config.store()
    except (LockedProfileError, LockingProfileError) as error:
        raise ValueError(f"profile {name} is in use ({error}): stop its daemon and exit its shells") from None
    return before
