"""`splitvlm keys ...`: the authority and the nodes' certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.errors import UsageError

keys_app = typer.Typer(help="Make, change and list the authority's and the nodes' certificates.", no_args_is_help=True)

KeysOption = Annotated[Path, typer.Option("--keys", help="folder of the authority")]
NodeArgument = Annotated[str, typer.Argument(help="the node's name: a DNS label")]
DaysOption = Annotated[int, typer.Option(min=1, max=825, help="days for which the certificate is valid")]


@keys_app.command("init")
def keys_init(keys: KeysOption = Path("keys")) -> None:
    """Make a private authority, which signs the nodes' certificates."""
    from splitvlm.crypto.authority import init_authority

    init_authority(keys)
    print(f"Authority made in {keys}. Keep its key on this machine.")


@keys_app.command("issue")
def keys_issue(
    node: NodeArgument,
    role: Annotated[str, typer.Option(help="role of the node: orchestrator, cloud, edge or app")],
    host: Annotated[
        list[str], typer.Option(help="further name or address by which others dial the node; may be repeated")
    ] = [],  # noqa: B006
    days: DaysOption = 30,
    keys: KeysOption = Path("keys"),
) -> None:
    """Issue a node's certificate and key."""
    from splitvlm.crypto.authority import LOOPBACK, issue
    from splitvlm.crypto.identity import Role

    if role not in list(Role):
        raise UsageError(f"'{role}' is not a role.", advice=f"Roles are {', '.join(Role)}.")
    folder = issue(keys, node, Role(role), hosts=(*LOOPBACK, *host), days=days)
    print(f"Keys of {node} ({role}) in {folder}. Copy that folder to the node; the key stays secret.")


@keys_app.command("rotate")
def keys_rotate(node: NodeArgument, days: DaysOption = 30, keys: KeysOption = Path("keys")) -> None:
    """Make another key and certificate for a node, with the same role and names."""
    from splitvlm.crypto.authority import rotate

    folder = rotate(keys, node, days=days)
    print(f"Another key and certificate of {node} in {folder}. Copy its files to the node: they count at once.")


@keys_app.command("revoke")
def keys_revoke(node: NodeArgument, keys: KeysOption = Path("keys")) -> None:
    """Revoke every certificate that was ever issued to a node."""
    from splitvlm.crypto.authority import revoke

    path = revoke(keys, node)
    print(
        f"All certificates that were issued to {node} are on the list {path}. Copy that file into every node's folder: it "
        f"counts at once. `splitvlm keys rotate {node}` makes another certificate, or `keys issue` where its folder is gone."
    )


@keys_app.command("show")
def keys_show(keys: KeysOption = Path("keys")) -> None:
    """List the valid certificates, and say which expire soon."""
    from rich.console import Console
    from rich.table import Table

    from splitvlm.crypto.authority import show

    table = Table("node", "role", "valid until", "names", "note")
    rows = show(keys)
    for row in rows:
        table.add_row(row.name, row.role, f"{row.not_after:%Y-%m-%d}", ", ".join(row.names), row.note)
    Console().print(table)
    if any("expire" in row.note for row in rows):
        print("`splitvlm keys rotate NODE` makes another certificate, of the same role and names.")
