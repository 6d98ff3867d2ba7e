"""The items nearest to a vector: one facade over FAISS - build, search, filter, update, persist."""
