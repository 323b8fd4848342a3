"""The front end: the public port. It counts sessions and relays their envelopes, as bytes, to workers; it never loads torch."""
