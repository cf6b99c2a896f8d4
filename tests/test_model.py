"""Random programs over each repository, compared with a dictionary after each step."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from disk_objectstore import CompressMode, Container
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from objrepo import CorruptObjectError, DiskRepository, MemoryRepository, ObjectNotFoundError, SandboxRepository
from objrepo.offload import Inline, Threads
from objrepo.sync import SyncRepository
from objrepo.sync.runner import InPlace, ThroughPortal

SMALL = st.binary(max_size=40)
LARGE = {"grouped": b"x" * 64 * 1024, "loose": b"y" * (64 * 1024 + 1), "in chunks": b"z" * 700_000}


def large(name):
    return LARGE[name]


CONTENTS = SMALL | st.sampled_from(sorted(LARGE)).map(large)


class Model(RuleBasedStateMachine):
    """What is common to all repositories; subclasses say which one, and where its coroutines run."""

    loop: str | None = None
    keys = Bundle("keys")

    def __init__(self):
        super().__init__()
        self.stack = ExitStack()
        self.place = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        if self.loop is None:
            self.driver = InPlace()
        else:
            self.driver = ThroughPortal(self.stack.enter_context(start_blocking_portal(self.loop)))
        self.call = self.driver.call
        self.contents = {}
        self.repo = self.open()
        self.call(self.repo.initialise)

    def offload(self):
        return Inline() if self.loop is None else Threads(limit=4)

    def make(self):
        return MemoryRepository(self.offload())

    def open(self):
        repo = self.make()
        self.call(repo.__aenter__)
        return repo

    def close(self, repo):
        self.call(repo.__aexit__, None, None, None)

    def teardown(self):
        self.close(self.repo)
        self.stack.close()

    def stored(self, keys, contents):
        self.contents |= dict(zip(keys, contents, strict=True))
        return multiple(*keys)

    # -- storing

    @rule(target=keys, content=CONTENTS)
    def put(self, content):
        return self.stored([self.call(self.repo.put, content)], [content])

    @rule(target=keys, pieces=st.lists(SMALL, max_size=4))
    def put_pieces(self, pieces):
        return self.stored([self.call(self.repo.put, pieces)], [b"".join(pieces)])

    @rule(target=keys, contents=st.lists(CONTENTS, max_size=6))
    def put_many(self, contents):
        return self.stored(self.call(self.repo.put_many, contents), contents)

    @rule(target=keys, contents=st.lists(CONTENTS, max_size=6), raises=st.booleans())
    def put_in_batch(self, contents, raises):
        """A batch that raises may have stored some of its objects."""
        with suppress(ZeroDivisionError), self.driver.enter(self.repo.batch()) as batch:
            keys = [self.call(batch.put, content) for content in contents]
            assert [self.call(batch.get, key) for key in keys] == contents
            if raises:
                raise ZeroDivisionError
        present = self.call(self.repo.has_many, keys)
        assert all(present) or raises
        stored = [pair for pair, found in zip(zip(keys, contents, strict=True), present, strict=True) if found]
        return self.stored([key for key, _ in stored], [content for _, content in stored])

    @rule(target=keys, content=CONTENTS)
    def put_by_facade(self, content):
        path = self.place / "source"
        path.write_bytes(content)
        with self.facade() as facade:
            return self.stored([facade.put_object_from_file(path)], [content])

    def facade(self):
        """Return the repository behind the documented interface; entering it a second time is nothing new."""
        return SyncRepository(self.repo) if self.loop is None else SyncRepository(self.repo, self.driver._portal)

    # -- reading

    @rule(key=keys, check=st.booleans())
    def get(self, key, check):
        if key in self.contents:
            assert self.call(self.repo.get, key, check) == self.contents[key]
            assert self.call(self.repo.size, key) == len(self.contents[key])
            assert self.call(self.repo.hash, key) == hashlib.sha256(self.contents[key]).hexdigest()
        else:
            with pytest.raises(ObjectNotFoundError):
                self.call(self.repo.get, key, check)

    @rule(key=keys, offset=st.integers(0, 800_000), length=st.none() | st.integers(0, 800_000))
    def read_range(self, key, offset, length):
        async def read():
            async with self.repo.open(key, offset, length) as stream:
                return await stream.read()

        if key in self.contents:
            expected = self.contents[key][offset:] if length is None else self.contents[key][offset : offset + length]
            assert self.call(read) == expected
        else:
            with pytest.raises(ObjectNotFoundError):
                self.call(read)

    @rule(wanted=st.lists(keys, max_size=8))
    def stream(self, wanted):
        async def read():
            async with self.repo.stream(wanted) as objects:
                return {key: await stream.read() async for key, stream in objects}

        missing = [key for key in dict.fromkeys(wanted) if key not in self.contents]
        if missing:
            with pytest.raises(ObjectNotFoundError) as caught:
                self.call(read)
            assert caught.value.keys == tuple(missing)
        else:
            assert self.call(read) == {key: self.contents[key] for key in wanted}

    @rule(wanted=st.lists(keys, max_size=8))
    def read_by_facade(self, wanted):
        wanted = [key for key in wanted if key in self.contents]
        with self.facade() as facade:
            found = {key: stream.read() for key, stream in facade.iter_object_streams(wanted)}
            assert found == {key: self.contents[key] for key in wanted}
            for key in wanted:
                assert facade.get_object_content(key) == self.contents[key]
                with facade.open(key) as handle:
                    assert handle.read(3) == self.contents[key][:3]

    @rule(wanted=st.lists(keys, max_size=8))
    def has(self, wanted):
        asked = [*wanted, "no key", "0" * 64]
        expected = [key in self.contents for key in asked]
        assert self.call(self.repo.has_many, asked) == expected
        assert [self.call(self.repo.has, key) for key in asked] == expected

    # -- deleting and looking after

    @rule(wanted=st.lists(keys, max_size=4))
    def delete(self, wanted):
        missing = [key for key in dict.fromkeys(wanted) if key not in self.contents]
        if missing:
            with pytest.raises(ObjectNotFoundError) as caught:
                self.call(self.repo.delete_many, wanted)
            assert caught.value.keys == tuple(missing)
        else:
            self.call(self.repo.delete_many, wanted)
            for key in set(wanted):
                del self.contents[key]

    @rule(live=st.booleans())
    def maintain(self, live):
        self.call(self.repo.maintain, False, live)

    @rule(quick=st.booleans())
    def verify(self, quick):
        report = self.call(self.repo.verify, None, quick)
        assert (report.objects, report.damaged) == (len(self.contents), ())
        assert report.size == sum(map(len, self.contents.values()))

    @invariant()
    def the_same_keys(self):
        async def listed():
            return [key async for key in self.repo.keys()]

        assert sorted(self.call(listed)) == sorted(self.contents)
        info = self.call(self.repo.info, True)
        assert (info.objects, info.size) == (len(self.contents), sum(map(len, self.contents.values())))


class SandboxModel(Model):
    def make(self):
        return SandboxRepository(self.place / "sandbox", self.offload())


class DiskModel(Model):
    """With a second handle, restarts, damage, and disk-objectstore at work on the same folder in between."""

    def make(self):
        return DiskRepository(self.place / "repository", self.offload())

    @rule()
    def restart(self):
        self.close(self.repo)
        self.repo = self.open()

    @rule()
    def the_other_handle(self):
        if not hasattr(self, "other"):
            self.other = self.open()
            self.stack.callback(lambda: self.close(self.other))
        self.repo, self.other = self.other, self.repo

    def container(self):
        return Container(self.place / "repository")

    @rule(target=Model.keys, contents=st.lists(SMALL, max_size=3), compress=st.booleans(), loose=st.booleans())
    def put_by_disk_objectstore(self, contents, compress, loose):
        with self.container() as container:
            if loose:
                keys = [container.add_object(content) for content in contents]
            else:
                keys = container.add_objects_to_pack(contents, compress=compress, do_fsync=False)
        return self.stored(keys, contents)

    @rule(compress=st.booleans(), step=st.sampled_from(["pack", "clean", "repack"]))
    def maintain_by_disk_objectstore(self, compress, step):
        mode = CompressMode.YES if compress else CompressMode.KEEP
        with self.container() as container:
            if step == "pack":
                container.pack_all_loose(compress=compress, do_fsync=False)
            elif step == "clean":
                container.clean_storage(vacuum=True)
            else:
                container.repack(compress_mode=mode)

    @rule(compress=st.booleans(), incremental=st.booleans())
    def pack(self, compress, incremental):
        self.call(lambda: self.repo.maintain(compress=compress, incremental_cleanup=incremental))

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def damage_and_repair(self, data):
        key = data.draw(st.sampled_from(sorted(self.contents)))
        if not self.contents[key]:
            return
        loose = self.place / "repository" / "loose" / key[:2] / key[2:]
        if not loose.exists():
            return
        loose.write_bytes(b"!" + self.contents[key])
        packed = self.call(self.repo.info).packed
        source = MemoryRepository(self.offload())
        self.call(source.__aenter__)
        refill = data.draw(st.booleans())
        if refill:
            self.call(source.put, self.contents[key])
        report = self.call(lambda: self.repo.repair(source=source))
        self.close(source)
        (step,) = [step for step in report.steps if step.subject == key]
        lost = [each for each in report.steps if each is not step]  # in earlier repairs
        assert all(each.action == "quarantined" and each.subject not in self.contents for each in lost)
        assert self.call(self.repo.info).packed == packed
        if step.action == "quarantined":
            assert not refill
            del self.contents[key]
        elif step.action == "refilled":
            assert refill
        with pytest.raises((CorruptObjectError, ObjectNotFoundError)) if key not in self.contents else ExitStack():
            assert self.call(self.repo.get, key, True) == self.contents[key]


EXAMPLES = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.parametrize("loop", [None, "asyncio", "trio"])
@pytest.mark.parametrize("model", [Model, SandboxModel, DiskModel])
def test_random_programs(model, loop):
    run_state_machine_as_test(type(model.__name__, (model,), {"loop": loop}), settings=EXAMPLES)
