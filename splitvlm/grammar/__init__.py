"""Structured answers: which tokens an answer under a constraint may go on with. No torch: device and cloud decide alike."""
