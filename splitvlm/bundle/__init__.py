"""A bundle holds what was learned about a model, in a folder of its own that is found by the hash of the model's weights.

    bundle.json               the manifest: of which weights it is, and what wrote it       folder.py
    calibration.safetensors   transforms and entropy models of the calibrated levels        by `splitvlm calibrate`
    accuracy.json             the answers that plans lose                                   accuracy.py, by `evaluate --plans`
    leak.json                 what plans leak                                               leaks.py, by `splitvlm leak`

A model's own folder is read and never written. What was not measured is in no figure: it is unknown, never 0.
Nodes and tools read through `open_bundle`, and nothing else opens these files.
"""

from splitvlm.bundle.folder import Bundle, open_bundle

__all__ = ["Bundle", "open_bundle"]
