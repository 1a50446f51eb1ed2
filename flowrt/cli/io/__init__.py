"""Input readers and output files of the commands."""
