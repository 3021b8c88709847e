"""The rules that decide whether an engine runs a file exactly."""
