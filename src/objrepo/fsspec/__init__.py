"""A filesystem for fsspec: pandas, pyarrow, dask, xarray and zarr read and write the objects of a repository.

It needs the extra ``fsspec``. fsspec finds it by its entry point.
"""

from __future__ import annotations

from objrepo.fsspec.filesystem import ObjectFileSystem

__all__ = ("ObjectFileSystem",)
