"""One trainer for every model of the package: seeded steps, fingerprinted checkpoints, schedule, EMA, best epoch."""
