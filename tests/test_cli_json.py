"""The interface for scripts: the documented fields of `--json`, an example in each help text, completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import click
import pytest

from helpers import sha256
from objrepo.cli import command

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
ROW = re.compile(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", re.MULTILINE)
EACH = re.compile(r"`(\w+)` \(each (.*?)\)")


def names(text):
    return set(re.findall(r"`(\w+)`", text))


def documented():
    """Return for each command the documented fields, and the fields inside of these."""
    fields = {}
    for name, text in ROW.findall(PAGE.read_text()):
        inside = {outer: names(inner) for outer, inner in EACH.findall(text)}
        top = names(re.sub(r"\(each .*?\)|`--long`", "", text))
        fields[name] = fields["copy"] if text == "as `copy`" else (top, inside)
    return fields


@pytest.fixture
def damaged(workdir, run_objrepo):
    """The key of a damaged object, in a repository that has another one, packed."""
    run_objrepo("put", "-", stdin=b"packed")
    run_objrepo("maintain")
    key = run_objrepo("put", "-", stdin=b"content")[1].split()[0].decode()
    path = workdir / ".objrepo" / "loose" / key[:2] / key[2:]
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    (workdir / ".objrepo" / "sandbox" / "left over").write_bytes(b"")
    return key


def test_json_has_the_documented_fields(workdir, run_objrepo, damaged):
    fields = documented()
    commands = {name for name, each in command.commands.items() if any(p.name == "json" for p in each.params)}
    assert set(fields) == commands
    (workdir / "file").write_bytes(b"content of a file")
    extra = run_objrepo("put", "-", "--repo", "other", stdin=b"extra")[1].split()[0].decode()
    (workdir / "list").write_text(f"{damaged}\n")
    for arguments in (
        ("init",),
        ("put", "file"),
        ("get", sha256(b"packed"), "-o", "copy.txt"),
        ("rm", "--repo", "other", extra),
        ("prune", "--keep-from", "list", "--dry-run"),
        ("has", damaged),
        ("ls", "--long"),
        ("stat", damaged),
        ("info", "--detailed"),
        ("du",),
        ("maintain", "--dry-run"),
        ("verify",),
        ("repair", "--dry-run"),
        ("copy", ".objrepo", "copy"),
        ("backup", "backup.zip"),
        ("restore", "backup.zip"),
        ("export", "some.tar"),
        ("sync", ".objrepo", "synced"),
        ("bench", "--seconds", "0.1"),
    ):
        name = arguments[0]
        top, inside = fields.pop(name)
        status, out, err = run_objrepo(*arguments, "--json")
        finds_damage = name in {"verify", "repair", "copy", "backup", "export", "sync"}
        assert status == finds_damage, (name, err)
        rows = [json.loads(line) for line in out.splitlines()]
        assert rows
        for row in rows:
            assert set(row) == top, name
            for outer, inner in inside.items():
                values = row[outer] if isinstance(row[outer], list) else [row[outer]]
                assert values, (name, outer)
                assert name == "sync" or {frozenset(value) for value in values} == {frozenset(inner)}
    assert fields == {}


@pytest.mark.parametrize("name", sorted(command.commands))
def test_each_help_text_has_an_example(name):
    each = command.commands[name]
    shown = each.get_help(click.Context(each, info_name=name))
    assert re.search(rf"^  .*objrepo {name}\b", shown, re.MULTILINE)
    assert not each.get_short_help_str(limit=62).endswith("..."), "its first sentence is too long"


def test_du_is_the_sum_of_the_files(workdir, run_objrepo):
    for number in range(3):
        run_objrepo("put", "-", stdin=b"%d" % number * 100_000)
    run_objrepo("maintain")
    key = run_objrepo("put", "-", stdin=b"x" * 5000)[1].split()[0].decode()
    run_objrepo("rm", run_objrepo("ls")[1].split()[0].decode())
    state = json.loads(run_objrepo("du", "--json")[1])
    sizes = {part["name"]: part["size"] for part in state["parts"]}
    files = [os.path.join(path, name) for path, _, names in os.walk(workdir / ".objrepo") for name in names]
    holes = sizes.pop("deleted")
    beside_the_index = 40_000  # SQLite has temporary files while it is open
    assert 0 <= sum(sizes.values()) - sum(os.path.getsize(file) for file in files) < beside_the_index
    assert state["objects"] == 3
    assert holes + state["size"] == 305_000
    assert sizes["packs"] == 300_000
    assert state["on_disk"] >= 304_000
    out = run_objrepo("du")[1].decode()
    assert "300.0 kB" in out or "200.0 kB" in out
    assert run_objrepo("stat", key)[0] == 0
    run_objrepo("export", "some.zip")
    assert json.loads(run_objrepo("du", "--json", "--repo", "some.zip")[1])["parts"] == []


def test_stat_of_loose_and_packed_objects(run_objrepo):
    key = run_objrepo("put", "-", stdin=b"zeros" * 1000)[1].split()[0].decode()
    loose = json.loads(run_objrepo("stat", key, "--json")[1])
    assert (loose["size"], loose["sha256"], loose["loose"], loose["pack"]) == (5000, key, True, None)
    run_objrepo("maintain", "--compress")
    packed = json.loads(run_objrepo("stat", key, "--json")[1])
    assert (packed["size"], packed["loose"], packed["pack"], packed["offset"], packed["compressed"]) == (
        *(5000, False, 0, 0),
        True,
    )
    assert packed["length"] < 1000
    out = run_objrepo("stat", key, key)[1].decode()
    assert "\nsize                  5000\n" in out, "a number that can be pasted"
    assert out.count("compressed            yes\n") == 2
    status, _, err = run_objrepo("stat", "0" * 64)
    assert (status, "0" * 64 in err) == (1, True)
    run_objrepo("export", "some.zip")
    assert set(json.loads(run_objrepo("stat", key, "--json", "--repo", "some.zip")[1])) == {"key", "size", "sha256"}


def test_bench_leaves_no_files(workdir, run_objrepo):
    status, out, _ = run_objrepo("bench", "--seconds", "0.5")
    assert (status, os.listdir(workdir)) == (0, [])
    assert [line for line in out.decode().splitlines() if line.startswith("put 1 KiB, 100 concurrently")]
    assert run_objrepo("bench", "--folder", "nowhere")[0] == 2


class TestCompletion:
    @staticmethod
    def completed(run_objrepo, *words):
        variables = {
            "_OBJREPO_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["objrepo", *words]),
            "COMP_CWORD": str(len(words)),
        }
        out = run_objrepo(env=variables.items())[1].decode()
        return [line.split(",", 1)[1] for line in out.splitlines() if line]

    def test_commands_options_and_keys(self, workdir, run_objrepo):
        (workdir / "files").mkdir()
        for number in range(100):
            (workdir / "files" / str(number)).write_bytes(b"%d" % number)
        keys = [line.split("  ")[0] for line in run_objrepo("put", "files")[1].decode().splitlines()]
        assert self.completed(run_objrepo, "sta") == ["stat"]
        assert self.completed(run_objrepo, "cat", "--len") == ["--length"]
        assert self.completed(run_objrepo, "cat", keys[0][:10]) == [keys[0]]
        assert self.completed(run_objrepo, "rm", keys[1], keys[2][:20]) == [keys[2]]
        for prefix in ("", "a", "ab"):
            expected = sorted(key for key in keys if key.startswith(prefix))[:50]
            assert self.completed(run_objrepo, "cat", prefix) == expected
        assert self.completed(run_objrepo, "cat", "nokey") == []
        assert self.completed(run_objrepo, "cat", "--repo", "nowhere", keys[0][:3]) == []
        assert self.completed(run_objrepo, "cat", "--repo", "s3://bucket", "a") == [], "completion uses no network"
        assert self.completed(run_objrepo, "cat", "--repo", "no-scheme:", "a") == []

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_scripts(self, run_objrepo, shell):
        status, out, _ = run_objrepo("completion", shell)
        assert status == 0
        assert b"_OBJREPO_COMPLETE" in out

    def test_in_bash(self, workdir, run_objrepo):
        script = 'eval "$(objrepo completion bash)"; complete -p objrepo'
        done = subprocess.run(["bash", "-c", script], cwd=workdir, capture_output=True, text=True, check=True)
        assert "_objrepo_completion" in done.stdout
