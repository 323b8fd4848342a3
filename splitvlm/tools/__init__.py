"""Holds what the command line runs besides the nodes: demo, verify, profile, emulated runs, and the launcher of processes."""
