"""Which bundle is served: the registry, release gates, deployment and rollback."""
