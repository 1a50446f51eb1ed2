"""Attribution of wall time: the causes that limited a batch, and its speedup. Arithmetic only, without a loop."""
