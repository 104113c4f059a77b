"""One verb module a stage, and the workshops that they use."""
