"""Does what every process needs: start, reload, log, share work, end."""
