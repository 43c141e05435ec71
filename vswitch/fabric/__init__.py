"""The fabric: the process that hosts the switches of a lab."""
