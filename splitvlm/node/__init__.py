"""What every process does: start, reload, log, share work, end."""
