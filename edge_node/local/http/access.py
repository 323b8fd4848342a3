"""Says who may reach the HTTP port, and checks that nobody else can: what is not loopback needs TLS and a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_node.settings import EdgeSettings
from splitvlm.crypto.identity import CERTIFICATE_FILE, KEY_FILE
from splitvlm.errors import ConfigError
from splitvlm.files.text import read_text
from splitvlm.host_port import host_and_port
from splitvlm.rpc.addresses import is_loopback

MIN_TOKEN_CHARS = 16
MAX_TOKEN_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Access:
    """Holds where HTTP is listened for, and the secrets for it."""

    listen: str
    token: str | None = field(default=None, repr=False)
    certificate: Path | None = None  # TLS where there is one
    key: Path | None = None


def access_of(settings: EdgeSettings) -> Access | None:
    """Returns where and for whom HTTP is served; None where it is not. Raises ConfigError."""
    http = settings.http
    if http.listen is None:
        return None
    token = _token(http.token_file) if http.token_file is not None else None
    certificate, key = http.certificate, http.key
    outside = not is_loopback(host_and_port(http.listen)[0])
    if outside and certificate is None and settings.security.keys is not None:
        certificate, key = settings.security.keys / CERTIFICATE_FILE, settings.security.keys / KEY_FILE
    if outside and (token is None or certificate is None):
        missing = "http.token_file" if token is None else "http.certificate"
        raise ConfigError(
            f"http.listen is {http.listen}, which is not loopback, but {missing} is missing.",
            advice="Set it, or listen on 127.0.0.1: whoever reaches the port may ask, and see the images.",
        )
    return Access(http.listen, token, certificate, key)


def _token(path: Path) -> str:
    token = read_text(path, "token", error=ConfigError, advice="Name it in http.token_file.", most=MAX_TOKEN_BYTES)
    token = token.strip()
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"http.token_file: {path} holds no token of at least {MIN_TOKEN_CHARS} characters without spaces.",
            advice="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'.",
        )
    return token
