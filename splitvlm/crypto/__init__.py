"""Identities, session keys, sealed frames: who a node is, and how device and cloud worker keep to themselves.

    certificates.py   the X.509 certificates of the authority and of nodes: their contents
    authority.py      `splitvlm keys`: a folder with an authority, nodes that it issued, and a table of them
    identity.py       what a node is at run time: its role, certificate, key and the authority that it trusts
    trust.py          whether a peer's certificate is one of ours, in time, and of the right role
    handshake.py      how device and cloud worker agree on session keys
    session_keys.py   the keys of a session, derived from the handshake
    sealing.py        frames sealed and opened in order

Pure: no sockets, no gRPC, no torch. Every primitive is `cryptography`'s. TLS uses the same certificates (splitvlm.rpc);
sealing comes on top of it and reaches the worker, where TLS may end earlier.
"""
