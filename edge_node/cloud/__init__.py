"""The way to cloud nodes: links, sessions, what crosses, and what is believed of what comes back."""
