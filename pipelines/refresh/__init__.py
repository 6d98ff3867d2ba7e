"""`recsys refresh`: a run that continues another one on interactions of a later period."""
