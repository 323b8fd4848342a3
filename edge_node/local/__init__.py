"""What applications of this machine call."""
