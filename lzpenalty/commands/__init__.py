"""The command `lzpenalty`: parsers in cli.py, a file for each command, and what several of them need in models.py."""
