"""Storage plugins for AiiDA: AiiDA's own storages with repositories of this package.

``objrepo.sqlite_dos`` and ``objrepo.psql_dos`` store the same files as ``core.sqlite_dos`` and ``core.psql_dos``;
``objrepo.psql_s3`` stores objects in a bucket. ``verdi profile setup`` creates profiles with them, and
:func:`switch_profile` switches an existing profile to one of the first two and back.

They need the extra ``aiida``.
"""

from __future__ import annotations

from objrepo.aiida.profiles import switch_profile

__all__ = ("switch_profile",)
