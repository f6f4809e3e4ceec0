"""Files: text files with typed errors, atomic files and folders, and the formats of the field."""
