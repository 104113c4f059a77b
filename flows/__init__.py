"""Prefect flows that build, plan, study and watch indexes, and what they need around them."""
