"""Azurite, Microsoft's emulator of Azure Blob Storage, with its data in memory."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlencode

from processes import free_ports

PROGRAM = "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of the account, which Azurite's documentation publishes."""

VERSION = "2021-08-06"


def missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [program for program in (PROGRAM, "node") if shutil.which(program) is None]


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run Azurite; gives the endpoint of its account."""
    (port,) = free_ports(1)
    folder.mkdir(parents=True)
    command = [PROGRAM, "--blobPort", str(port), "--inMemoryPersistence"]
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]  # obstore is newer than Azurite
    with (
        open(folder / "azurite.out", "ab") as output,
        subprocess.Popen([*command, *options], cwd=folder, stdout=output, stderr=output) as process,
    ):
        try:
            _wait(process, port, folder)
            yield f"http://127.0.0.1:{port}/{ACCOUNT}"
        finally:
            process.kill()


def make_container(endpoint: str, name: str) -> None:
    """Create a container, by a request that is signed with the key of the account."""
    date = formatdate(usegmt=True)
    signed = (
        f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
    headers = {"x-ms-date": date, "x-ms-version": VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}"}
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers)
    with urllib.request.urlopen(request, timeout=60):
        pass


def connection_string(endpoint: str) -> str:
    """Return account, key and endpoint in one text, as Microsoft's tools show it."""
    return f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"


def shared_access_signature(permissions: str) -> str:
    """Return a shared access signature of the account, for an hour."""
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    fields = {"sp": permissions, "ss": "b", "srt": "sco", "st": "", "se": end, "sip": "", "spr": "", "sv": "2019-12-12"}
    signed = "\n".join([ACCOUNT, *fields.values(), ""])
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
    return urlencode({**{name: value for name, value in fields.items() if value}, "sig": signature})


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"Azurite does not start; see {folder}/azurite.out")
