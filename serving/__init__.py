"""HTTP around `recsys.recommender`."""
