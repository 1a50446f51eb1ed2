"""Load tests: how many items a node should run at once, measured in closed and open loops."""
