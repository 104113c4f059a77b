"""Run a build's jobs on the workers of a Dask or Ray cluster, as Prefect tasks."""
