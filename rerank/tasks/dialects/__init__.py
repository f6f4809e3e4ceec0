"""HTTP bodies of rerank and decision APIs, declared once for our server and for clients of other servers.

The module `question` defines the question and the answer that all rerank dialects in `rerank` share.
"""
