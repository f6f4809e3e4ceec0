"""Reading and writing of files: text files, atomic files and folders, runs, qrels and topics."""
