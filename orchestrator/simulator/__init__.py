"""Replays recorded links under the table and the policy that the nodes use, and compares with every simple alternative.

    scenario.py     the configuration: profiles and their factors, clouds, traces, arrivals, limits
    engine.py       the events: one request at a time a device, clouds with queues
    contenders.py   who decides: the policy, fixed plans, fixed hedges, JPEG by the link, the oracle in hindsight
    results.py      what came out, request by request and summed up; CSV and JSON
    run.py          a scenario over its traces

All times are simulated: lines of measured profiles, scaled by the factors that the scenario states, over the integral of
the trace. Pure Python, no torch, no gRPC.
"""
