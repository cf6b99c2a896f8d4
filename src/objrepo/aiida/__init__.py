"""Storage plugins for AiiDA: its own storages, with repositories of this package in them.

``objrepo.sqlite_dos`` and ``objrepo.psql_dos`` keep what ``core.sqlite_dos`` and ``core.psql_dos`` keep, in the same
files; ``objrepo.psql_s3`` keeps objects in a bucket. ``verdi profile setup`` makes profiles with them;
:func:`switch_profile` moves an existing profile to one of the first two and back.

It needs the extra ``aiida``.
"""

from __future__ import annotations

from objrepo.aiida.profiles import switch_profile

__all__ = ("switch_profile",)
