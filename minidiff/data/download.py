"""Downloading one file: resumed where it stopped, and believed only if its checksum is right."""

from __future__ import annotations

import hashlib
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

CHUNK = 1 << 20


def fetch(url: str, path: Path, md5: str, timeout: float = 30.0) -> Path:
    """Return `path`, after downloading `url` there unless it already holds a file with this MD5 checksum.

    The bytes go to PATH.part first. A part left by an earlier, interrupted call is continued with an HTTP
    Range request (RFC 9110, section 14.2), or begun again if the server does not honour it.

    Raises ConnectionError if the server cannot be reached or stops early, and says how to supply the file by
    hand; ValueError if the complete file has another checksum (the part is then deleted).
    """
    if path.is_file() and checksum(path) == md5:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _transfer(url, part, timeout)
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f"could not download {url} ({error}). Without a network, put the file there by hand: {path}."
            " An interrupted download continues at the next call."
        ) from error
    got = checksum(part)
    if got != md5:
        part.unlink()
        raise ValueError(f"{url} arrived with MD5 {got}, expected {md5}: the download was discarded")
    return part.replace(path)


def checksum(path: Path) -> str:
    """The MD5 of a file as 32 hexadecimal digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _transfer(url: str, part: Path, timeout: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        if error.code != 416:
            raise
        return  # "range not satisfiable": the part is already whole, or wrong, which the checksum will tell
    with response:
        _append(response, part, have)


def _append(response: HTTPResponse, part: Path, have: int) -> None:
    resumed = response.status == 206
    expected = response.headers.get("Content-Length")
    received = 0
    with part.open("ab" if resumed else "wb") as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            received += len(chunk)
    if expected is not None and received < int(expected):
        raise ConnectionError(f"the server stopped after {received} of {expected} bytes")
