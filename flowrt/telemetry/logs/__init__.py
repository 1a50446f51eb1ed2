"""Structured logging: the events, their formatting, the thread that writes them, and the process's set-up."""
