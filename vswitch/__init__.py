"""Virtual network labs: real machines joined by a fast user-space Ethernet."""

__version__ = "0.1.0"
