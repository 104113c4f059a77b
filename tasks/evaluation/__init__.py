"""The parts of an evaluation: retrieval, relevance, tables and report data. The formulas are in `tasks.metrics`."""
