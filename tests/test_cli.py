"""The command line: each command in a process, on real files, with errors, Ctrl-C and terminals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile

import pytest

import objrepo
from helpers import OBJREPO, sha256
from objrepo.testing.fixtures import BAD_KEYS, content_of


class TestPutAndGet:
    def test_put_prints_keys_as_sha256sum_does(self, workdir, run_objrepo):
        (workdir / "b").mkdir()
        (workdir / "b" / "two").write_bytes(b"2")
        (workdir / "b" / "a").mkdir()
        (workdir / "b" / "a" / "three").write_bytes(b"3")
        (workdir / "one").write_bytes(b"1")
        status, out, err = run_objrepo("put", "one", "b", "-", stdin=b"input")
        lines = [
            f"{sha256(b'1')}  one",
            f"{sha256(b'2')}  b/two",
            f"{sha256(b'3')}  b/a/three",
            f"{sha256(b'input')}  -",
        ]
        assert (status, out.decode().splitlines(), err) == (0, lines, "")
        sums = subprocess.run(["sha256sum", "one", "b/two"], capture_output=True, cwd=workdir, check=True)
        assert out.startswith(sums.stdout)
        assert (workdir / ".objrepo" / "config.json").exists()
        for line in lines:
            assert run_objrepo("cat", line.split()[0])[:2][0] == 0
        assert run_objrepo("cat", sha256(b"input")) == (0, b"input", "")

    def test_the_repository_is_an_option_a_variable_or_the_default(self, workdir, run_objrepo):
        (workdir / "file").write_bytes(b"content")
        key = sha256(b"content")
        assert run_objrepo("put", "file", "--repo", "here")[0] == 0
        assert run_objrepo("has", key, env={"OBJREPO": "here"}.items())[0] == 0
        assert run_objrepo("has", key, "--repo", "here", env={"OBJREPO": "there"}.items())[0] == 0
        status, out, err = run_objrepo("has", key)
        assert (status, out) == (1, b"")
        assert ".objrepo, which does not exist" in err
        assert err.endswith("run `objrepo init`\n")
        assert len(err.splitlines()) == 1

    def test_put_skips_the_repository_itself(self, workdir, run_objrepo):
        (workdir / "file").write_bytes(b"content")
        for path in (".", workdir, "../work", ".objrepo", "."):
            assert run_objrepo("put", path)[0] == 0
        assert run_objrepo("ls")[1].decode().split() == [sha256(b"content")]

    def test_unreadable_files_are_reported_and_the_others_are_stored(self, workdir, run_objrepo):
        (workdir / "good").write_bytes(b"good")
        (workdir / "in").mkdir()
        (workdir / "in" / "also good").write_bytes(b"also good")
        status, out, err = run_objrepo("put", "missing", "in", "good", "dir/missing")
        assert status == 1
        assert [line.split("  ")[1] for line in out.decode().splitlines()] == ["in/also good", "good"]
        assert err.splitlines() == [
            f"objrepo: {name}: No such file or directory" for name in ("missing", "dir/missing")
        ]

    def test_file_names_that_are_not_utf8(self, workdir, run_objrepo):
        name = b"caf\xe9"
        with open(os.path.join(os.fsencode(workdir), name), "wb") as file:
            file.write(b"content")
        status, out, _ = run_objrepo("put", os.fsdecode(name))
        assert (status, out) == (0, sha256(b"content").encode() + b"  " + name + b"\n")
        listed = json.loads(run_objrepo("put", "--json", os.fsdecode(name))[1])
        assert os.fsencode(listed["path"]) == name

    def test_cat_of_a_range(self, workdir, run_objrepo):
        content = content_of(1_000_000)
        key = run_objrepo("put", "-", stdin=content)[1].split()[0].decode()
        assert run_objrepo("cat", key)[1] == content
        assert run_objrepo("cat", key, "--offset", "999990")[1] == content[-10:]
        assert run_objrepo("cat", key, "--offset", "10", "--length", "300000")[1] == content[10:300_010]
        assert run_objrepo("cat", key, "--offset", "2000000")[1] == b""
        assert run_objrepo("cat", key, "--offset", "-1")[0] == 2
        assert run_objrepo("cat", key, "--length", "x")[0] == 2

    def test_get_writes_whole_files(self, workdir, run_objrepo):
        one, two = run_objrepo("put", "-", stdin=b"1")[1].split()[0].decode(), None
        two = run_objrepo("put", "-", stdin=b"2")[1].split()[0].decode()
        assert run_objrepo("get", one, "-o", "file")[0] == 0
        assert (workdir / "file").read_bytes() == b"1"
        assert run_objrepo("get", two, "-o", "file")[0] == 0
        assert (workdir / "file").read_bytes() == b"2"
        (workdir / "plain").write_bytes(b"")
        assert (workdir / "file").stat().st_mode == (workdir / "plain").stat().st_mode
        assert run_objrepo("get", one, two, "-o", "some/folder")[0] == 0
        assert (workdir / "some" / "folder" / one).read_bytes() == b"1"
        assert run_objrepo("get", one)[0] == 0
        assert (workdir / one).read_bytes() == b"1"
        status, _, err = run_objrepo("get", one, "0" * 64, "-o", "nothing")
        assert status == 1
        assert "0" * 64 in err
        assert not (workdir / "nothing").exists()
        assert run_objrepo("get", one, "-o", "missing/folder/file")[0] == 1
        for option in ("-o", "--to"):
            status, _, err = run_objrepo("get", one, option, "")
            assert (status, "-o or --to is empty" in err) == (2, True)
        assert not [name for name in os.listdir(workdir) if name.startswith(".objrepo-")]


class TestOtherCommands:
    def test_has_ls_and_rm(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(3)]
        status, out, _ = run_objrepo("has", keys[0], "0" * 64)
        assert (status, out.decode().splitlines()) == (1, [f"{keys[0]}  yes", f"{'0' * 64}  no"])
        assert run_objrepo("has", *keys)[0] == 0
        rows = [json.loads(line) for line in run_objrepo("has", keys[0], "no key", "--json")[1].splitlines()]
        assert rows == [{"key": keys[0], "present": True}, {"key": "no key", "present": False}]
        assert run_objrepo("ls")[1].decode().split() == sorted(keys)
        assert sorted(run_objrepo("ls", "-l")[1].decode().splitlines()) == sorted(f"{key}  1" for key in keys)
        rows = [json.loads(line) for line in run_objrepo("ls", "--json", "--long")[1].splitlines()]
        assert sorted(row["key"] for row in rows) == sorted(keys)
        assert {row["size"] for row in rows} == {1}
        assert run_objrepo("rm", keys[0], "0" * 64)[0] == 1
        assert run_objrepo("has", keys[0])[0] == 0
        assert run_objrepo("rm", keys[0], keys[1]) == (0, b"", "")
        assert run_objrepo("ls")[1].decode().split() == [keys[2]]

    def test_init_and_info(self, workdir, run_objrepo):
        status, out, _ = run_objrepo(
            "init", "--hash-type", "sha1", "--loose-prefix-len", "3", "--pack-size-target", "9"
        )
        assert status == 0
        uuid = out.split()[1].decode()
        assert run_objrepo("init")[1] == out
        status, _, err = run_objrepo("init", "--hash-type", "sha256")
        assert status == 1
        assert "--hash-type sha1" in err
        run_objrepo("put", "-", stdin=b"x" * 2_000_000)
        out = run_objrepo("info", "--detailed")[1].decode()
        assert uuid in out
        assert "2.0 MB" in out
        state = json.loads(run_objrepo("info", "--json")[1])
        assert (state["uuid"], state["objects"], state["key_format"], state["size"]) == (uuid, 1, "sha1", None)

    def test_maintain(self, workdir, run_objrepo):
        for number in range(3):
            run_objrepo("put", "-", stdin=b"%d" % number)
        planned = json.loads(run_objrepo("maintain", "--dry-run", "--json")[1])
        assert planned["dry_run"]
        assert planned["steps"][0] == {"name": "pack_loose", "objects": 3, "size": 3}
        status, out, err = run_objrepo("maintain", "--compress")
        assert status == 0
        assert out.decode().splitlines()[0].split() == ["pack_loose", "3", "objects", "3", "bytes"]
        assert err == ""
        status, _, err = run_objrepo("maintain", "--do-vacuum")
        assert (status, "--do-vacuum" in err, "--not-live" in err, "live=" in err) == (1, True, True, False)
        done = json.loads(run_objrepo("maintain", "--not-live", "--no-do-repack", "--json")[1])
        assert [step["name"] for step in done["steps"]] == ["pack_loose", "clean_storage", "do_vacuum"]

    def test_verify(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        status, out, _ = run_objrepo("verify")
        assert (status, out) == (0, b"1 object, 7 bytes: 0 damaged\n")
        path = workdir / ".objrepo" / "loose" / key[:2] / key[2:]
        path.chmod(0o600)
        path.write_bytes(b"CONTENT")
        status, out, err = run_objrepo("verify")
        assert (status, err) == (1, ""), "the damage is printed once"
        assert out.decode().startswith(f"{key}  its content in {path} hashes to {sha256(b'CONTENT')}\n")
        assert run_objrepo("verify", "--quick")[0] == 0
        report = json.loads(run_objrepo("verify", "--json")[1])
        assert report["damaged"][0]["key"] == key

    def test_repair(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(2)]
        assert run_objrepo("repair")[:2] == (0, b"0 changes, 0 objects lost, 0 skipped\n")
        assert run_objrepo("put", "-", "--repo", "other", stdin=b"0")[0] == 0
        for number, key in enumerate(keys):
            path = workdir / ".objrepo" / "loose" / key[:2] / key[2:]
            path.chmod(0o600)
            path.write_bytes(b"damaged %d" % number)
        (workdir / ".objrepo" / "packs" / "0.lock").touch()
        status, _, err = run_objrepo("repair", "--from", "other")
        assert (status, "objrepo repair --exclusive" in err) == (1, True)
        for options, would, to_be in ((["--dry-run"], "would be ", " to be made"), ([], "", "")):
            status, out, err = run_objrepo("repair", "--exclusive", "--from", "other", *options)
            assert (status, err) == (1, "")
            lines = out.decode().splitlines()
            assert lines[0].startswith(f"{would}removed: ")
            changes = {tuple(line.split(": ")[:2]) for line in lines[1:-1]}
            assert changes == {(f"{would}refilled", keys[0]), (f"{would}quarantined", keys[1])}
            assert lines[-1] == f"3 changes{to_be}, 1 object lost, 0 skipped"
        assert run_objrepo("cat", keys[0])[1] == b"0"
        assert run_objrepo("verify")[0] == 0
        assert json.loads(run_objrepo("repair", "--json")[1]) == {"dry_run": False, "steps": []}

    def test_repair_fails_if_it_skips_an_object(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
        path = workdir / ".objrepo" / "loose" / key[:2] / key[2:]
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        script = (  # root, who may run these tests, can move every file
            "import errno, os, sys, objrepo.cli\n"
            "def replace(source, target): raise PermissionError(errno.EPERM, 'not permitted', source)\n"
            "os.replace = replace\nsys.exit(objrepo.cli.run(['repair']))"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=workdir, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stdout.startswith(f"skipped: {key}: it cannot be quarantined: ")
        assert done.stdout.endswith("0 changes, 0 objects lost, 1 skipped\n")

    def test_copy(self, workdir, run_objrepo):
        keys = [run_objrepo("put", "-", stdin=b"%d" % number)[1].split()[0].decode() for number in range(3)]
        status, out, _ = run_objrepo("copy", ".objrepo", "backup", "--dry-run")
        assert (status, out) == (0, b"3 objects, 3 to be copied (3 bytes), 0 to be deleted, 0 damaged\n")
        assert not (workdir / "backup").exists()
        out = out.replace(b"to be ", b"")
        assert run_objrepo("copy", ".objrepo", "disk:backup")[:2] == (status, out)
        assert run_objrepo("cat", keys[1], "--repo", "backup")[1] == b"1"
        report = json.loads(run_objrepo("copy", ".objrepo", "backup", "--json")[1])
        assert (report["objects"], report["copied"]) == (3, 0)
        assert run_objrepo("rm", keys[0])[0] == 0
        status, _, err = run_objrepo("copy", ".objrepo", "backup", "--delete")
        assert (status, "--deletions 1" in err) == (1, True)
        assert b"1 deleted" in run_objrepo("copy", ".objrepo", "backup", "--delete", "--deletions", "1")[1]
        assert run_objrepo("copy", ".objrepo", "third", keys[1])[0] == 0
        assert run_objrepo("ls", "--repo", "third")[1].decode() == f"{keys[1]}\n"
        path = workdir / ".objrepo" / "loose" / keys[2][:2] / keys[2][2:]
        path.chmod(0o600)
        path.write_bytes(b"damaged")
        status, out, _ = run_objrepo("copy", ".objrepo", "fourth")
        assert status == 1
        assert out.decode().startswith(f"{keys[2]}  its content hashes to")

    def test_urls(self, workdir, run_objrepo):
        with zipfile.ZipFile(workdir / "some.aiida", "w") as archive:
            archive.writestr(f"repo/{sha256(b'content')}", b"content")
        for repo in ("some.aiida", "zip:some.aiida"):
            assert run_objrepo("ls", "--repo", repo)[1].decode() == f"{sha256(b'content')}\n"
            assert run_objrepo("cat", sha256(b"content"), "--repo", repo)[1] == b"content"
            state = json.loads(run_objrepo("info", "--json", "--repo", repo)[1])
            assert run_objrepo("ls", "--repo", state["location"])[0] == 0, "what --repo takes, and no prose"
            assert run_objrepo("verify", "--repo", repo)[0] == 0
            assert run_objrepo("maintain", "--repo", repo)[0] == 0
            status, _, err = run_objrepo("put", "-", "--repo", repo, stdin=b"new")
            assert (status, "is read-only" in err) == (1, True)
            status, _, err = run_objrepo("repair", "--repo", repo)
            assert (status, "not a repository on disk" in err) == (2, True)
        status, _, err = run_objrepo("ls", "--repo", "ftp://host")
        assert (status, "unknown scheme 'ftp'" in err) == (1, True)
        assert run_objrepo("copy", "some.aiida", "imported")[0] == 0

    def test_ten_thousand_small_files(self, workdir, run_objrepo):
        files = workdir / "files"
        contents = {}
        for number in range(10_000):
            if number % 1000 == 0:
                (files / str(number)).mkdir(parents=True)
                inside = files / str(number)
            content = number.to_bytes(4, "big") * 256
            (inside / f"{number}.bin").write_bytes(content)
            contents[f"files/{inside.name}/{number}.bin"] = content
        status, out, _ = run_objrepo("put", "files")
        assert status == 0
        keys = {path: key for key, path in (line.split("  ") for line in out.decode().splitlines())}
        assert keys == {path: sha256(content) for path, content in contents.items()}
        assert run_objrepo("maintain")[0] == 0
        state = json.loads(run_objrepo("info", "--json")[1])
        assert (state["packed"], state["loose"]) == (10_000, 0)
        some = list(contents.items())
        for start in range(0, 10_000, 1000):  # a command line is limited in length
            here = dict(some[start : start + 1000])
            assert run_objrepo("get", "-o", "back", *(keys[path] for path in here))[0] == 0
            assert all((workdir / "back" / keys[path]).read_bytes() == content for path, content in here.items())
        assert run_objrepo("verify")[:2] == (0, b"10,000 objects, 10.2 MB: 0 damaged\n")


class TestRepositoryOption:
    def test_it_is_before_or_after_the_command(self, workdir, run_objrepo):
        key = run_objrepo("--repo", "one", "put", "-", stdin=b"content")[1].split()[0].decode()
        assert run_objrepo("--repo", "one", "has", key)[0] == 0
        assert run_objrepo("has", "--repo", "one", key)[0] == 0
        assert run_objrepo("--repo", "two", "has", "--repo", "one", key)[0] == 0
        assert run_objrepo("--repo", "one", "has", key, env={"OBJREPO": "two"}.items())[0] == 0
        status, _, err = run_objrepo("--repo", "one", "copy", "one", "two")
        assert (status, "`objrepo copy` takes no --repo" in err) == (2, True)
        assert run_objrepo("ls", "--repo", "")[0] == 2
        home = {"HOME": str(workdir)}.items()  # the shell leaves ~ as it is after an equals sign
        assert run_objrepo("has", key, "--repo=~/one", env=home)[0] == 0

    def test_the_nearest_directory_above_is_used_and_named(self, workdir, run_objrepo):
        run_objrepo("put", "-", stdin=b"content")
        below = workdir / "a" / "b"
        below.mkdir(parents=True)

        def run(*arguments):
            done = subprocess.run([*OBJREPO, *arguments], cwd=below, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        key = sha256(b"content")
        assert run("ls") == (0, f"{key}\n", f"objrepo: repository {workdir / '.objrepo'}\n")
        assert run("-q", "ls") == run("ls", "--quiet") == (0, f"{key}\n", "")
        (below / "file").write_bytes(b"stored above")
        assert run("put", "file")[0] == 0
        assert len(run_objrepo("ls")[1].split()) == 2
        assert run("init")[0] == 0
        assert run("ls") == (0, "", ""), "`init` creates one here, which is nearer"

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root changes owners")
    def test_one_of_another_user_is_used_only_if_it_is_named(self, workdir, run_objrepo):
        run_objrepo("init")
        os.chown(workdir / ".objrepo", 12345, 12345)
        (workdir / "below").mkdir()
        for options, expected in ((), 2), (("--repo", "../.objrepo"), 0):
            command = [*OBJREPO, "ls", *options]
            done = subprocess.run(command, cwd=workdir / "below", capture_output=True, text=True, check=False)
            assert done.returncode == expected
            assert ("belongs to another user" in done.stderr) == (expected == 2)


class TestWhatPutStores:
    def test_links_and_special_files_of_a_directory_are_skipped(self, workdir, run_objrepo):
        inside = workdir / "in"
        (inside / "folder").mkdir(parents=True)
        (inside / "folder" / "file").write_bytes(b"file")
        (inside / "link").symlink_to("folder/file")
        (inside / "dangling").symlink_to("nowhere")
        (inside / "to folder").symlink_to("folder")
        os.mkfifo(inside / "fifo")
        status, out, err = run_objrepo("put", "in", "-q")
        assert (status, out.decode()) == (0, f"{sha256(b'file')}  in/folder/file\n")
        assert sorted(err.splitlines()) == [
            "objrepo: skipped in/dangling: it is a symbolic link",
            "objrepo: skipped in/fifo: it is not a regular file",
            "objrepo: skipped in/link: it is a symbolic link",
            "objrepo: skipped in/to folder: it is a symbolic link",
        ]
        status, out, err = run_objrepo("put", "in/link", "in/to folder")
        assert (status, out.decode().splitlines(), err) == (
            *(0, [f"{sha256(b'file')}  in/link", f"{sha256(b'file')}  in/to folder/file"]),
            "",
        )

    def test_exclude(self, workdir, run_objrepo):
        for name in ("src/a.py", "src/a.o", "src/build/b.o", "src/build/c.py", "src/sub/build/d.py", "src/sub/e.py"):
            (workdir / name).parent.mkdir(parents=True, exist_ok=True)
            (workdir / name).write_text(name)

        def stored(*patterns):
            options = [option for pattern in patterns for option in ("--exclude", pattern)]
            return [line.split("  ")[1] for line in run_objrepo("put", *options, "src")[1].decode().splitlines()]

        assert stored("*.o", "build/") == ["src/a.py", "src/sub/e.py"]
        assert stored("src/build") == ["src/a.o", "src/a.py", "src/sub/e.py", "src/sub/build/d.py"]
        assert stored("b*", "sub/*") == ["src/a.o", "src/a.py"]
        assert stored("uild", "src/A.py") == stored()

    def test_json_says_what_is_new(self, workdir, run_objrepo):
        for name, content in (("a", b"same"), ("b", b"same"), ("c", b"old"), ("large", content_of(200_000))):
            (workdir / name).write_bytes(content)
        run_objrepo("put", "c")
        run_objrepo("init", "--repo", "sha1", "--hash-type", "sha1")
        for options, new in (((), [True, False, False, True]), (("--repo", "sha1"), [True, False, True, True])):
            rows = run_objrepo("put", "--json", "-q", "a", "b", "c", "large", *options)[1].splitlines()
            assert [json.loads(row)["new"] for row in rows] == new
            assert [json.loads(row)["size"] for row in rows] == [4, 4, 3, 200_000]
        rows = run_objrepo("put", "--json", "a", "b", "c", "large")[1].splitlines()
        assert [json.loads(row)["new"] for row in rows] == [False] * 4

    def test_nothing_is_created_for_nothing(self, workdir, run_objrepo):
        assert run_objrepo("put", "missing") == (1, b"", "objrepo: missing: No such file or directory\n")
        assert run_objrepo("put", "-", "-")[0] == 2
        run_objrepo("init", "--repo", "source")
        for arguments in (
            ("copy", "source", "target", "0" * 64),
            ("restore", "source", "0" * 64, "--repo", "target"),
            ("copy", "missing", "target"),
            ("copy", "source", "target", "--from", "missing"),
        ):
            status, _, err = run_objrepo(*arguments)
            assert (status, len(err.splitlines())) == (1, 1)
        assert os.listdir(workdir) == ["source"]


class TestClosedStreams:
    def run(self, workdir, script):
        command = ["bash", "-c", f"exec {sys.executable} -m objrepo {script}"]
        done = subprocess.run(command, cwd=workdir, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def test_closed_standard_streams_are_one_error(self, workdir, run_objrepo):
        assert self.run(workdir, "put - <&-") == (1, "", "objrepo: standard input is closed\n")
        assert self.run(workdir, "has - <&-") == (1, "", "objrepo: standard input is closed\n")
        run_objrepo("put", "-", stdin=b"content")
        for command in ("ls", f"cat {sha256(b'content')}", "init"):
            assert self.run(workdir, f"{command} >&-") == (1, "", "objrepo: standard output is closed\n")
        assert self.run(workdir, "cat nokey 2>&-") == (1, "", "")


class TestErrorsAndHelp:
    def test_help_and_version(self, run_objrepo):
        for option in ("--version", "-V"):
            assert run_objrepo(option)[1].decode().strip() == f"objrepo, version {objrepo.__version__}"
        assert run_objrepo("--help")[0] == run_objrepo("-h")[0] == 0
        for name in ("init", "put", "cat", "get", "has", "ls", "rm", "info", "maintain", "verify", "repair", "copy"):
            status, out, _ = run_objrepo(name, "--help")
            assert status == 0
            assert name == "copy" or b"--repo" in out

    def test_misuse_exits_with_status_2(self, run_objrepo):
        for arguments in ((), ("no-such-command",), ("put",), ("cat",), ("cat", "a", "b"), ("ls", "--no-such-option")):
            status, _, err = run_objrepo(*arguments)
            assert status == 2, arguments
            assert "Usage" in err

    def test_malformed_keys_are_not_found(self, run_objrepo):
        run_objrepo("put", "-", stdin=b"content")
        bad = [key for key in BAD_KEYS if "\0" not in key and key.isascii() and not key.startswith("-")]
        for command in ("cat", "get", "rm", "has"):
            for key in bad[::3]:
                status, _, err = run_objrepo(command, "--", key)
                assert status == 1
                assert len(err.splitlines()) <= 1

    def test_errors_speak_of_commands(self, workdir, run_objrepo):
        run_objrepo("init")
        (workdir / "incomplete").mkdir()
        (workdir / "incomplete" / "config.json").write_text("{}")
        (workdir / ".objrepo" / "packs" / "0.lock").touch()
        run_objrepo("put", "-", stdin=b"content")
        for arguments, expected in (
            (("ls", "--repo", "missing"), "run `objrepo init`"),
            (("ls", "--repo", "incomplete"), "restore it from a backup, or delete its directory"),
            (("maintain", "--do-vacuum"), "pass --not-live if none does"),
            (("maintain",), "remove it with `objrepo repair --exclusive`"),
        ):
            status, _, err = run_objrepo(*arguments)
            assert (status, err.rstrip().endswith(expected), len(err.splitlines())) == (1, True, 1), err
            assert not re.search(r"await|\(\)|=True|=False", err)

    def test_a_server_that_refuses_connections_is_named_with_its_port_and_the_cause(self, run_objrepo):
        url = "s3://bucket?endpoint=http://127.0.0.1:1&retry_timeout=1&anonymous=1"
        status, _, err = run_objrepo("ls", "--repo", url)
        meanwhile, last = err.splitlines()
        assert status == 1
        assert re.fullmatch(
            r"objrepo: .*127\.0\.0\.1:1 .*Connection refused.*; trying again for 0\.\d seconds", meanwhile
        )
        assert re.fullmatch(r"objrepo: .*127\.0\.0\.1:1 .*Connection refused.*", last)

    def test_missing_credentials_of_azure_are_one_error(self, run_objrepo, monkeypatch):
        """And not the paragraph that azure-identity logs besides, with one line for each way that it has tried."""
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
        status, _, err = run_objrepo("ls", "--repo", "az://container?account=mine&retry_timeout=0")
        assert (status, len(err.splitlines())) == (1, 1), err
        assert err.startswith("objrepo: no credentials for az://container at https://mine.blob.core.windows.net: set ")

    def test_a_folder_that_is_no_repository_is_one_error(self, workdir, run_objrepo):
        (workdir / "other").mkdir()
        (workdir / "other" / "thesis.tex").write_text("all of it")
        for arguments in (("ls",), ("put", "other"), ("maintain",), ("init",)):
            status, _, err = run_objrepo(*arguments, "--repo", "other")
            assert status == 1
            assert len(err.splitlines()) == 1
            assert "other" in err
        assert os.listdir(workdir / "other") == ["thesis.tex"]

    def test_a_closed_pipe_ends_the_command_silently(self, workdir, run_objrepo):
        key = run_objrepo("put", "-", stdin=content_of(10_000_000))[1].split()[0].decode()
        for command, reader, shown in ((f"cat {key}", "head -c 5", 5), ("ls", "exec 0<&-", 0)):
            script = f"set -o pipefail; {sys.executable} -m objrepo {command} | ({reader})"
            done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=workdir, check=False)
            assert (len(done.stdout), done.stderr, done.returncode) == (shown, b"", 1)

    def test_an_unexpected_error_is_one_line(self, workdir):
        script = (
            "import sys, objrepo.cli\nfrom objrepo.disk.backend import DiskBackend\n"
            "DiskBackend.list_keys = None\nsys.exit(objrepo.cli.run(['ls']))"
        )
        subprocess.run([*OBJREPO, "init"], cwd=workdir, check=True, capture_output=True)
        done = subprocess.run([sys.executable, "-c", script], cwd=workdir, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("objrepo: TypeError: ")
        assert len(done.stderr.splitlines()) == 1
        environment = {**os.environ, "OBJREPO_TRACEBACK": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=workdir, capture_output=True, text=True, check=False, env=environment
        )
        assert "Traceback" in done.stderr

    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_a_missing_extra_is_named(self, workdir, missing):
        script = (
            f"import sys; sys.modules[{missing!r}] = None; import objrepo.__main__ as main\n"
            "sys.argv = ['objrepo', 'info']; main.main()"
        )
        subprocess.run([*OBJREPO, "init"], cwd=workdir, check=True, capture_output=True)
        done = subprocess.run([sys.executable, "-c", script], cwd=workdir, capture_output=True, text=True, check=False)
        error = f"objrepo: the command line needs {missing}: pip install 'objrepo[cli]'\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", error)
