"""Having an existing profile use another storage plugin over the same files."""

from __future__ import annotations

from typing import Final

from aiida.common.exceptions import LockedProfileError, LockingProfileError, ProfileConfigurationError
from aiida.manage.configuration import get_config
from aiida.manage.profile_access import ProfileAccessManager

__all__ = ("switch_profile",)

_SAME_FILES: Final = (
    {"core.sqlite_dos", "objrepo.sqlite_dos"},
    {"core.psql_dos", "objrepo.psql_dos"},
)


def switch_profile(name: str, backend: str) -> str:
    """Have a profile use another storage plugin that keeps the same files. Nothing but AiiDA's configuration changes.

    :param name: the name of a profile; nobody may be using it.
    :param backend: ``objrepo.sqlite_dos`` for a profile of ``core.sqlite_dos``, ``objrepo.psql_dos`` for one of
        ``core.psql_dos``, or back.
    :return: the storage plugin that it used before.
    :raises ValueError: if there is no such profile, the plugins keep different files, or the profile is in use.
    """
    config = get_config()
    try:
        profile = config.get_profile(name)
    except ProfileConfigurationError as error:
        raise ValueError(str(error)) from None
    before = str(profile.storage_backend)
    if not any({before, backend} <= same for same in _SAME_FILES):
        raise ValueError(f"{backend} does not keep its files as {before} does, which {name} uses")
    try:
        with ProfileAccessManager(profile).lock():
            profile.set_storage(backend, profile.storage_config)
            config.update_profile(profile)
            config.store()
    except (LockedProfileError, LockingProfileError) as error:
        raise ValueError(f"{name} is in use, stop its daemon and leave its shells first: {error}") from None
    return before
