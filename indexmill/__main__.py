"""Run the command line as `python -m indexmill`."""

from indexmill.flows.cli.app import main

main()
