"""A worker: sessions' keys and frames, what devices send, and one engine with its model."""
