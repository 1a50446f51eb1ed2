"""How many items at once a node should run, found by running it: load in a closed and in an open loop."""
