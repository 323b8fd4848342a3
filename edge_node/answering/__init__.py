"""One question from its admission to its report: the plan's run, the hedge beside it, and who takes over."""
