"""Parts that first stages share: text analysis, encoders, and indexes on disk."""
