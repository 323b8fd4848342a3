"""Decoding many answers in one forward pass: rows of caches, attention over them, and the step that moves all answers on."""
