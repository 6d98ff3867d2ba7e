"""Rankings against truth: metrics, slices, significance, and the page that shows them. Sees no model."""
