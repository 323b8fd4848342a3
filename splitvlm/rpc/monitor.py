"""Warns of a node's own certificates while it runs: that one expires soon, and that it has expired."""

from __future__ import annotations

import logging
from typing import Final

from cryptography import x509

from splitvlm.crypto.identity import Identity
from splitvlm.crypto.lifetime import Lifetime, utc_now

_log = logging.getLogger("splitvlm.keys")
SAY_AGAIN_S: Final = 3_600.0
_REISSUE: Final = "Make another authority in another folder, and issue the keys of all nodes anew."


class ExpiryMonitor:
    """Watches one node's certificate and its authority's: says what becomes true at once, and hourly while it is true."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._said: dict[str, tuple[int, float]] = {}  # log level and monotonic time of the last sentence about each

    def look(self, now_s: float) -> None:
        """Says which certificates expire soon, at most once in a while. `now_s` is in monotonic seconds."""
        identity = self._identity.newest()
        rotate = f"Run `splitvlm keys rotate {identity.node}` and copy its files into this node's folder: they count at once."
        self._look_at(identity.node, identity.certificate_pem, rotate, now_s)
        self._look_at("the authority", identity.authority_pem, _REISSUE, now_s)

    def _look_at(self, owner: str, certificate_pem: bytes, advice: str, now_s: float) -> None:
        lifetime, now = Lifetime.of(x509.load_pem_x509_certificate(certificate_pem)), utc_now()
        if not lifetime.is_expiring(now):
            self._said.pop(owner, None)
            return
        level = logging.ERROR if lifetime.has_expired(now) else logging.WARNING
        said_level, said_s = self._said.get(owner, (0, 0.0))
        if level == said_level and now_s - said_s < SAY_AGAIN_S:
            return
        self._said[owner] = level, now_s
        _log.log(level, "The certificate of %s %s. %s", owner, lifetime.expiry(now), advice)
