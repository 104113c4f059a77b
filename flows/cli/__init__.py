"""The command `indexmill`: one module for each group of commands, and all printing to the terminal."""
