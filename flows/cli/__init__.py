"""The command line: commands, options, progress and all terminal output."""
