"""One loaded bundle that answers requests: the interface and its implementation."""
