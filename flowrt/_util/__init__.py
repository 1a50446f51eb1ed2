"""General helpers, standard library only; none of them knows a batch."""
