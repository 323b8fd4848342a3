"""The edge node: the device daemon. Runs the lower part, measures the link, picks the plan, seals, streams, serves local applications."""
