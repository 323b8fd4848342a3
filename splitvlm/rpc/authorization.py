"""Reads the node and role from the caller's certificate, and checks that the role may make the call."""

from __future__ import annotations

from typing import Any

import grpc

from splitvlm.crypto.identity import Role, peer_identity
from splitvlm.errors import PermissionRefused


def require_role(context: grpc.aio.ServicerContext[Any, Any], *roles: Role, plaintext: bool) -> str | None:
    """Returns the caller's node name, or None where the server is plaintext. Raises PermissionRefused."""
    certificates = list(context.auth_context().get("x509_pem_cert") or ())
    if not certificates:
        if plaintext:
            return None
        raise PermissionRefused("This port wants a client certificate.")
    node, role = peer_identity(certificates[0])
    if role not in roles:
        role_names = " or ".join(str(r) for r in roles)
        raise PermissionRefused(
            f"This call is for the role {role_names}, but the certificate is of the role {role}.",
            advice="Issue a certificate with the right role: `splitvlm keys issue NAME --role ROLE`.",
        )
    return node
