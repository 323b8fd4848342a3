"""The orchestrator: control plane. Knows who is alive, builds plan tables, watches links. Never loads torch."""
