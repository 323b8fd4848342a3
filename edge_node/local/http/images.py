"""Gets the file of an image by its URL: a data URI, a file in a folder that is allowed, or a host that is allowed by name.

Nothing is fetched from the network and no file is read unless the edge node's `http` section names its host or folder: else an
application could make the device read its own secrets, or its neighbours'. What is not a picture is refused where it is opened.
"""

from __future__ import annotations

import base64
import binascii
import http.client
from pathlib import Path
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit

from edge_node.local.http.errors import RequestRefused
from edge_node.settings import Http

MAX_IMAGE_BYTES = 32 * 2**20  # as over gRPC
FETCH_TIMEOUT_S = 10.0
MOST_SHOWN = 80  # characters of a URL


class ImageFiles:
    """Gets image files by what one edge node's settings allow."""

    def __init__(self, settings: Http) -> None:
        self._folders = [folder.resolve() for folder in settings.image_folders]
        self._hosts = frozenset(settings.fetch_hosts)

    def get(self, url: str) -> bytes:
        """Returns the file's bytes. It may read a disk or wait for a network. Raises RequestRefused."""
        if url.startswith("data:"):
            return _from_data_uri(url)
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError as error:
            raise _refused(url, "cannot be read as a URL", "Use a data URI.") from error
        match parts.scheme:
            case "file":
                return self._from_file(url, parts)
            case "http" | "https":
                if host not in self._hosts:
                    advice = "Send it as a data URI, or name its host in http.fetch_hosts."
                    raise _refused(url, "is not fetched: its host is not allowed by name", advice)
                return _fetched(url, parts)
        raise _refused(url, "is none of data, file, http and https", "Use a data URI.")

    def _from_file(self, url: str, parts: SplitResult) -> bytes:
        try:
            path = Path(unquote(parts.path)).resolve()
            if parts.netloc not in ("", "localhost") or not any(path.is_relative_to(each) for each in self._folders):
                advice = "Send it as a data URI, or name its folder in http.image_folders."
                raise _refused(url, "is not read: its folder is not allowed by name", advice)
            if not path.is_file() or path.stat().st_size > MAX_IMAGE_BYTES:
                raise _refused(url, f"is no file of at most {MAX_IMAGE_BYTES} bytes", "Check the path.")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise _refused(url, "cannot be read", "Check the path and its permissions.") from error


def _from_data_uri(url: str) -> bytes:
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise _refused(url, "is no data URI: it has no comma", "Write data:image/jpeg;base64,DATA.")
    if not head.endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _refused(url, "is no data URI: what follows the comma is not base64", "Encode the file.") from error


def _fetched(url: str, parts: SplitResult) -> bytes:
    """Returns what a host answers to a GET. Redirects are not followed: they could lead to a host that is not allowed."""
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=FETCH_TIMEOUT_S)
        try:
            connection.request("GET", target, headers={"Accept": "image/*"})
            response = connection.getresponse()
            data = response.read(MAX_IMAGE_BYTES + 1)
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _refused(url, "cannot be fetched", "Check the host, or send the image as a data URI.") from error
    if response.status != 200:
        raise _refused(url, f"cannot be fetched: the host answers {response.status}", "Check the URL.")
    if len(data) > MAX_IMAGE_BYTES:
        raise _refused(url, f"is larger than {MAX_IMAGE_BYTES} bytes", "Send a smaller image.")
    return data


def _refused(url: str, why: str, advice: str) -> RequestRefused:
    shown = url if len(url) <= MOST_SHOWN else f"{url[:MOST_SHOWN]}..."
    return RequestRefused(f"The image '{shown}' {why}.", advice=advice, param="messages", code="invalid_image_url")
