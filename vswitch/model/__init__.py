"""The lab file: typed specs as written, the resolved lab, and the way from one to the other."""
