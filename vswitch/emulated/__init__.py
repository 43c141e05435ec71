"""Emulated nodes: endpoints that are a process of ours on shared-memory rings, with no guest and no kernel behind them.

`settings` is what a lab file says to them, `roles` what they do with frames (no I/O there), `process` what runs them.
"""
