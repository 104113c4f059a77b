"""Compare encoders and indexes on one dataset; each index is built, searched at several settings, and deleted."""
