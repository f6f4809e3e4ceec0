"""Modules that several first stages share: text analysis, encoders, and indexes on disk."""
