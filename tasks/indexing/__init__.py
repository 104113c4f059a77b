"""Train, fill, tune and search FAISS indexes."""
