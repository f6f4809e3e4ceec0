"""Reading and writing of files: text files with typed errors, atomic files and folders, runs, qrels and topics."""
