"""Ten thousand linked nodes with files, in the profile `mine`: provenance.py fill, provenance.py check."""

from __future__ import annotations

import io
import sys
import uuid
from datetime import UTC, datetime

from aiida import load_profile, orm
from aiida.common.links import LinkType
from aiida.manage import get_manager
from aiida.orm.entities import EntityTypes

STEPS = 2500
"""Each with two inputs, a calculation that also takes the output of the one before, and an output."""

FILE, WORK = orm.SinglefileData.class_node_type, orm.CalculationNode.class_node_type


def fill():
    """Store the nodes as an import of an archive stores them, each with a file."""
    storage = get_manager().get_profile_storage()
    user = orm.User.collection.get_default().pk
    with storage.transaction():
        rows = [row for step in range(STEPS) for row in rows_of(step, user, storage.get_repository())]
        pks = storage.bulk_insert(EntityTypes.NODE, rows, allow_defaults=True)
        links = []
        for first in range(0, len(pks), 4):
            one, two, work, out = pks[first : first + 4]
            for number, each in enumerate([one, two, *pks[first - 1 : first]]):
                links.append(link(each, work, LinkType.INPUT_CALC, f"in_{number}"))
            links.append(link(work, out, LinkType.CREATE, "out"))
        storage.bulk_insert(EntityTypes.LINK, links)


def rows_of(step, user, repository):
    contents = [(FILE, f"input {side} of {step}") for side in range(2)]
    contents += [(WORK, f"log of {step}"), (FILE, f"output of {step}")]
    now = datetime.now(UTC)
    for kind, content in contents:
        key = repository.put_object_from_filelike(io.BytesIO(content.encode()))
        yield {
            "uuid": str(uuid.uuid4()),
            "node_type": kind,
            "user_id": user,
            "ctime": now,
            "mtime": now,
            "attributes": {"filename": "file.txt"} if kind == FILE else {"sealed": True},
            "extras": {"content": content},
            "repository_metadata": {"o": {"file.txt": {"k": key}}},
        }


def link(source, target, kind, label):
    return {"input_id": source, "output_id": target, "type": kind.value, "label": label}


def check():
    """Read the file of each node, and follow the links."""
    nodes = orm.QueryBuilder().append(orm.Node, filters={"extras": {"has_key": "content"}})
    read = 0
    for (node,) in nodes.iterall():
        assert node.base.repository.get_object_content("file.txt") == node.base.extras.get("content")
        read += 1
    assert read == 4 * STEPS, read
    paths = orm.QueryBuilder().append(orm.SinglefileData, tag="in")
    paths.append(orm.CalculationNode, with_incoming="in", tag="work").append(orm.SinglefileData, with_incoming="work")
    assert paths.count() == 3 * STEPS - 1, paths.count()


if __name__ == "__main__":
    load_profile("mine")
    {"fill": fill, "check": check}[sys.argv[1]]()
