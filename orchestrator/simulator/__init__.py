"""Replays recorded links under the table and the policy that the nodes use, and compares with every simple alternative.

    scenario.py     the configuration: profiles and their factors, clouds, traces, arrivals, limits
    world.py        what a simulation is given: link, clouds, arrivals; and what a contender is
    baselines.py    the contenders: the policy, fixed plans, fixed hedges, JPEG by the link, the oracle in hindsight
    answer_costs.py the time of one answer under a cost line
    engine.py       the events: one request at a time a device, clouds with queues
    results.py      what came out, request by request and summed up; CSV and JSON
    verdict.py      the conclusion: what to take on a link, and how sure that is
    run.py          a scenario over its traces
    console.py, plots.py, html_report.py    what people see of it

All times are simulated: lines of measured profiles, scaled by the factors that the scenario states, over the integral of
the trace. Pure Python, no torch, no gRPC.
"""
