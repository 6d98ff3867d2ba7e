"""A bundle on disk: its manifest, files, golden answers and cache, and how it is loaded."""
