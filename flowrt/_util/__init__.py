"""Helpers of general use; none knows a batch."""
