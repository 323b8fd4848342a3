"""A variant is a form of the device's part of a model (quantised, pruned, distilled, exported), in a folder of its own.

    variant.json              the manifest: what it was made from, how, and the hash of each file     manifest.py
    tower.onnx, tower.xml     an exported stage, which a back end runs, or
    model.safetensors         weights of the vision tower and connector, beside their config.json
    calibration.safetensors   codec levels of its own, where the parent's do not fit
    accuracy.json, leak.json  what was measured of it, by whole plans such as tokens/klt3@int8

folder.py reads and writes such folders, make.py makes them, a file for each family of kinds.
"""
