"""Keys at the command line: abbreviations, lists in the format of sha256sum, files that come back under their names."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from helpers import sha256

NAMES = [
    b"plain",
    b"two words",
    b"new\nline",
    b"back\\slash",
    b"carriage\rreturn",
    b"caf\xe9",
    "π".encode(),
    b" lead",
    b"-",
]


@pytest.fixture
def photos(workdir):
    """A directory whose files have unusual names; returns their contents by name."""
    contents = {b"photos/" + name: b"content of " + name for name in [*NAMES, b"deep/er/file"]}
    (workdir / "photos" / "deep" / "er").mkdir(parents=True)
    for name, content in contents.items():
        with open(os.path.join(os.fsencode(workdir), name), "wb") as file:
            file.write(content)
    return contents


def contents_below(folder):
    folder = os.fsencode(folder)
    paths = [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): Path(os.fsdecode(path)).read_bytes() for path in paths}


class TestLists:
    def test_every_file_comes_back_under_its_name(self, workdir, run_objrepo, photos):
        status, listed, _ = run_objrepo("put", "photos")
        assert status == 0
        (workdir / "photos.sha256").write_bytes(listed)
        checked = subprocess.run(["sha256sum", "-c", "--quiet", "photos.sha256"], cwd=workdir, capture_output=True)
        assert (checked.returncode, checked.stdout) == (0, b"")
        own = subprocess.run(["sha256sum", *photos], cwd=workdir, capture_output=True, check=True).stdout
        assert sorted(own.splitlines()) == sorted(listed.splitlines())
        assert run_objrepo("get", "--from", "photos.sha256", "--to", "back") == (0, b"", "")
        assert contents_below(workdir / "back") == photos
        status, listed, _ = run_objrepo("put", "-z", "photos")
        assert {line.split(b"  ", 1)[1] for line in listed.split(b"\0")[:-1]} == set(photos)
        assert run_objrepo("get", "-z", "-", "-o", "again/", stdin=listed)[0] == 0
        assert contents_below(workdir / "again") == photos
        rows = [json.loads(line) for line in run_objrepo("put", "--json", "photos")[1].splitlines()]
        assert {os.fsencode(row["path"]) for row in rows} == set(photos)
        assert {(row["size"], row["new"]) for row in rows} == {(len(content), False) for content in photos.values()}
        rows = run_objrepo("get", "--json", "--from", "photos.sha256", "--to", "third")[1].splitlines()
        assert {os.fsencode(json.loads(row)["path"]) for row in rows} == {b"third/" + name for name in photos}

    @pytest.mark.parametrize("name", ["../escaped", "photos/../../escaped", "..", "link/escaped", "a/link/escaped"])
    def test_no_name_leads_out_of_the_directory(self, workdir, run_objrepo, name):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        (workdir / "outside").mkdir()
        (workdir / "back" / "a").mkdir(parents=True)
        for link in ("link", "a/link"):
            (workdir / "back" / link).symlink_to(workdir / "outside")
        status, _, err = run_objrepo(
            "get", "--from", "-", "--to", "back", stdin=f"{key}  {name}\n{key}  good\n".encode()
        )
        assert (status, len(err.splitlines())) == (1, 1)
        assert "refused" in err
        assert name in err
        assert os.listdir(workdir / "outside") == []
        assert not (workdir / "escaped").exists()
        assert (workdir / "back" / "good").read_bytes() == b"content"

    def test_absolute_names_become_relative(self, workdir, run_objrepo):
        (workdir / "file").write_bytes(b"content")
        listed = run_objrepo("put", workdir / "file")[1]
        (workdir / "file").unlink()
        status, _, err = run_objrepo("get", "-", "--to", "back", stdin=listed)
        assert (status, err) == (0, "objrepo: removed the leading / from names\n")
        assert not (workdir / "file").exists()
        assert (workdir / "back" / str(workdir)[1:] / "file").read_bytes() == b"content"

    def test_a_link_in_the_way_is_replaced_and_not_followed(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        (workdir / "target").write_bytes(b"precious")
        (workdir / "back").mkdir()
        (workdir / "back" / "name").symlink_to(workdir / "target")
        assert run_objrepo("get", "-", "--to", "back", stdin=f"{key}  name".encode())[0] == 0
        assert (workdir / "target").read_bytes() == b"precious"
        assert not (workdir / "back" / "name").is_symlink()

    def test_one_object_with_many_names_and_one_name_with_two_objects(self, workdir, run_objrepo):
        one, two = (run_objrepo("put", "-", stdin=content)[1].split()[0].decode() for content in (b"1", b"2"))
        lines = f"{one}  a\n{one} *b\n# a comment\n\n{one}  c\n{two}  c\n{two}\n{one}  -\n"
        assert run_objrepo("get", "-", "--to", "back", stdin=lines.encode()) == (0, b"", "")
        expected = {b"a": b"1", b"b": b"1", b"c": b"2", two.encode(): b"2", one.encode(): b"1"}
        assert contents_below(workdir / "back") == expected

    def test_commands_take_lists(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(3)]
        (workdir / "list").write_text(f"{keys[0]}  some name\n{keys[1]}\n")
        listed = f"{keys[0]}  yes\n{keys[1]}  yes\n".encode()
        assert run_objrepo("has", "--from", "list")[1] == listed
        assert run_objrepo("has", "-", stdin=(workdir / "list").read_bytes())[1] == listed
        assert run_objrepo("stat", "--from", "list")[1].count(b"sha256") == 2
        assert run_objrepo("copy", ".objrepo", "copied", "--from", "list")[0] == 0
        assert sorted(run_objrepo("ls", "--repo", "copied")[1].decode().split()) == sorted(keys[:2])
        assert b"2 objects exported" in run_objrepo("export", "some.tar", "--from", "list")[1]
        assert b"2 restored" in run_objrepo("restore", ".objrepo", "--from", "list", "--repo", "restored")[1]
        rows = [json.loads(line) for line in run_objrepo("rm", "--json", "--from", "list")[1].splitlines()]
        assert rows == [{"key": keys[0], "deleted": True}, {"key": keys[1], "deleted": True}]
        assert run_objrepo("ls")[1].decode().split() == [keys[2]]
        (workdir / "list").write_text("")
        assert run_objrepo("rm", "--from", "list") == (0, b"", "")

    @pytest.mark.parametrize("line", ["nokey", "ABCDEF012345", "abc", "abcdef0 name", "\\abcdef0123  a\\x"])
    def test_a_line_without_a_key_is_an_error(self, run_objrepo, line):
        run_objrepo("init")
        status, _, err = run_objrepo("has", "-", stdin=f"# list\n{line}\n".encode())
        assert (status, len(err.splitlines())) == (1, 1)
        assert err.startswith("objrepo: line 2 of - is neither a key nor a line of sha256sum: ")

    def test_standard_input_is_read_once(self, workdir, run_objrepo):
        run_objrepo("init")
        for arguments in (("put", "-", "-"), ("has", "-", "-"), ("has", "-", "--from", "-")):
            status, _, err = run_objrepo(*arguments)
            assert (status, "only once" in err) == (2, True)
        assert run_objrepo("ls")[1] == b""


class TestAbbreviations:
    def test_seven_digits_are_enough(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(3)]
        run_objrepo("maintain")
        keys.append(run_objrepo("put", "-", stdin=b"3")[1].split()[0].decode())
        for repo in (".objrepo", "zip:all.zip"):
            for number, key in enumerate(keys):
                assert run_objrepo("cat", key[:7], "--repo", repo)[1] == b"%d" % number
            status, _, err = run_objrepo("cat", keys[0][:6], "--repo", repo)
            assert (status, err) == (1, f"objrepo: the key {keys[0][:6]} is too short: give seven digits or more\n")
            assert run_objrepo("has", keys[0][:9], "0123456789", "--repo", repo)[:2] == (
                1,
                f"{keys[0]}  yes\n0123456789  no\n".encode(),
            )
            if repo == ".objrepo":
                assert run_objrepo("export", "all.zip")[0] == 0
        assert run_objrepo("get", keys[0][:8], keys[1][:8], "-o", "some/")[0] == 0
        assert sorted(os.listdir(workdir / "some")) == sorted(keys[:2])
        assert run_objrepo("rm", keys[0][:7])[0] == 0
        assert run_objrepo("has", keys[0])[0] == 1

    def test_an_ambiguous_abbreviation_lists_the_candidates(self, workdir, run_objrepo):
        run_objrepo("init")
        keys = [f"abcdef0{digit}{sha256(b'')[8:]}" for digit in "123"]
        for key in keys:  # no two contents are known whose hashes begin alike
            (workdir / ".objrepo" / "loose" / key[:2]).mkdir(exist_ok=True)
            (workdir / ".objrepo" / "loose" / key[:2] / key[2:]).write_bytes(b"")
        status, _, err = run_objrepo("rm", "abcdef0")
        assert (status, err) == (1, f"objrepo: the key abcdef0 is ambiguous: {', '.join(keys)}\n")
        assert run_objrepo("has", "abcdef01")[1].decode() == f"{keys[0]}  yes\n"


class TestGet:
    def test_where_files_are_written(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        assert run_objrepo("get", key, "-o", "new/") == (0, b"", "")
        assert (workdir / "new" / key).read_bytes() == b"content"
        assert run_objrepo("get", key, "-o", "-") == (0, b"content", "")
        assert run_objrepo("get", key, "--to", "other")[0] == 0
        assert (workdir / "other" / key).read_bytes() == b"content"
        assert run_objrepo("get", key, "--to", "other", "-o", "x")[0] == 2
        assert run_objrepo("get")[0] == 2

    def test_no_clobber_keeps_files(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        (workdir / "file").write_bytes(b"mine")
        lines = f"{key}  file\n{key}  other".encode()
        kept = (0, b"", "objrepo: kept file, which exists\n")
        assert run_objrepo("get", "--no-clobber", "-", stdin=lines) == kept
        assert run_objrepo("get", "-n", key, "-o", "file") == kept
        assert (workdir / "file").read_bytes() == b"mine"
        assert (workdir / "other").read_bytes() == b"content"

    def test_errors_name_the_path_that_was_given(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        (workdir / "file").write_bytes(b"")
        for path, reason in (("missing/name", "No such file or directory"), ("file/name", "Not a directory")):
            assert run_objrepo("get", key, "-o", path) == (1, b"", f"objrepo: {path}: {reason}\n")
        full = f"{key} > /dev/full"
        done = subprocess.run(
            ["bash", "-c", f"objrepo cat {full}; objrepo get -o - {full}; objrepo ls > /dev/full"],
            cwd=workdir,
            capture_output=True,
            text=True,
        )
        assert done.stderr == "objrepo: standard output: No space left on device\n" * 3


class TestPrune:
    def test_prune_deletes_what_is_not_in_the_list(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(5)]
        run_objrepo("maintain")
        (workdir / "keep").write_text(f"{keys[0]}  photo.jpg\n{keys[1][:10]}\n{'0' * 64}\n")
        shown = b"2 objects kept, 3 to be deleted, 1 in the list but not in the repository\n"
        assert run_objrepo("prune", "--keep-from", "keep", "--dry-run") == (0, shown, "")
        for options in ((), ("--deletions", "2"), ("--deletions", "4")):
            status, _, err = run_objrepo("prune", "--keep-from", "keep", *options)
            assert (status, "--deletions 3" in err) == (1, True)
        assert len(run_objrepo("ls")[1].split()) == 5
        status, out, _ = run_objrepo("prune", "--keep-from", "keep", "--deletions", "3", "--json")
        assert json.loads(out) == {"dry_run": False, "kept": 2, "deleted": 3, "missing": 1}
        assert sorted(run_objrepo("ls")[1].decode().split()) == sorted(keys[:2])
        assert run_objrepo("prune", "--keep-from", "keep")[0] == 0

    def test_what_is_no_key_deletes_nothing(self, workdir, run_objrepo):
        run_objrepo("put", "-", stdin=b"content")
        for line in ("abcdef0123", "f" * 40, "nonsense"):
            (workdir / "keep").write_text(line)
            assert run_objrepo("prune", "--keep-from", "keep", "--deletions", "1")[0] == 1
        assert run_objrepo("prune", "--deletions", "1")[0] == 2
        assert len(run_objrepo("ls")[1].split()) == 1
