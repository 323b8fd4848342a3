"""The link between device and cloud: estimated, and emulated. Knows bytes and seconds, and nothing of models.

estimator.py    round-trip time, delivery rate and server time -> a prediction with a spread; `now_s` passed in
traces.py       capacity over time, and what follows from it: pure arithmetic
tracefiles.py   traces from Mahimahi files, CSV files and short texts such as `constant:2mbit`
synthesis.py    makes the small traces of our own in synthetic/
bottleneck.py   when which byte leaves a queue before a trace; `now_s` passed in
emulator.py     a TCP proxy that replays a trace between real processes
sockets.py      its sockets, with small buffers
command.py      the process `splitvlm link`
"""
