"""Port types: one file per type and language. Python sets a port up (names, sockets, devices), C moves its frames."""
