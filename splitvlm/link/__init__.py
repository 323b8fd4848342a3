"""The link between device and cloud: estimated, and emulated. Knows bytes and seconds, and nothing of models.

estimator.py   round-trip time, delivery rate and server time -> a prediction with a spread; pure, `now_s` passed in
traces.py      capacity over time: Mahimahi files, CSV, constants, steps
synthetic/     small traces of our own, made by synthesis.py
shaper.py      when which byte may cross: the trace as a bottleneck; pure
emulator.py    a TCP proxy that replays a trace between real processes
"""
