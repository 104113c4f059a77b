"""FAISS indexes: made, trained, filled, written, searched."""
