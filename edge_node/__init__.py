"""The edge node, the device's daemon: runs the lower part, measures the link, picks the plan, serves local applications."""
