"""The driver that joins strategies and judges, and what it does to documents and windows that are too long."""
