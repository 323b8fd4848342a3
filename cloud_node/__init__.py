"""The cloud node: serves the upper part of the model to many devices at once."""
