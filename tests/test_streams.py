"""The files that streams of objects read from."""

from __future__ import annotations

import io
import threading

import pytest

from objrepo import (
    CorruptObjectError,
    RepositoryClosedError,
)
from objrepo.streams import RangeHandle, open_range
from objrepo.testing.fixtures import content_of


class TestRangeHandle:
    """The blocking file of a stream."""

    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3))

    def test_short_reads_of_a_file_are_continued(self):
        handle = RangeHandle("key", self.Dripping(content_of(100)), 10, 50)
        assert handle.read_at(5, 45) == content_of(100)[15:60]
        handle.close()

    def test_a_file_that_ends_early_raises_corrupt_object_error(self):
        file = io.BytesIO(content_of(100))
        with pytest.raises(CorruptObjectError, match="its bytes end after 90 of 95"):
            open_range("key", file, 95, start=10)
        assert file.closed

    def test_close_does_not_wait_for_a_reader(self):
        reading, go_on = threading.Event(), threading.Event()

        class Slow(io.BytesIO):
            def read(self, size=-1):
                reading.set()
                assert go_on.wait(30)
                return super().read(size)

        file = Slow(content_of(100))
        handle = RangeHandle("key", file, 0, 100)
        results = []
        reader = threading.Thread(target=lambda: results.append(handle.read_at(0, 100)))
        reader.start()
        assert reading.wait(30)
        handle.close()
        assert not file.closed, "a thread reads from it"
        go_on.set()
        reader.join()
        assert file.closed
        assert results == [content_of(100)]
        with pytest.raises(RepositoryClosedError):
            handle.read_at(0, 1)
