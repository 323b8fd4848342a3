"""The load generator: many simulated devices ask one cloud node over the real wire, with payloads that were recorded before."""
