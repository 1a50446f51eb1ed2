"""Attribution of wall time: what held a batch back, and what concurrency gained. Arithmetic alone."""
