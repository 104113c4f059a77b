"""Train, fill, write and search FAISS indexes."""
