"""Between HTTP and the engine: batches, deadlines, degradation, live item updates, metrics."""
