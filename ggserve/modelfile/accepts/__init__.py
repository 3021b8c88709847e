"""Which engine runs a file exactly as it is, and which one is chosen."""
