"""Costs, the plan table and the policy that picks from it: pure values in, values out.

No torch, no gRPC, no clock and no link estimator: rates, times and `now_s` come as plain numbers. Times are seconds,
rates are bit/s, sizes are bytes.

    costs.py    profiles measured by the nodes -> one cost line a plan
    energy.py   joules of a request on the device
    table.py    cost lines and limits -> the plans that may and can be the best
    policy.py   table and link -> the plan of the next request
"""
