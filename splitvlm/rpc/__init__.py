"""Channels, servers and status mapping that all nodes share. Knows gRPC; knows no model, no codec and no planning policy."""
