"""Prefect flows that build, plan, study and watch indexes, and the command line that runs them."""
