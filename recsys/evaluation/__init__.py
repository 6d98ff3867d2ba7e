"""Evaluation of rankings: metrics, slices, significance, and the report. Reads rankings, never a model."""
