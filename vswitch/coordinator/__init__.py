"""The process that owns one lab: desired state in, actions out, everything it starts supervised."""
