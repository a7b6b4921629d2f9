"""What the commands do. `cli.py` declares them and imports the module of the one that runs."""
