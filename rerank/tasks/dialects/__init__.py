"""Bodies of rerank and decision APIs, declared once for our server and for clients of other servers.

`question` holds what all rerank dialects ask and answer. Each other module declares the pydantic bodies of one dialect:
a request converts itself to a `RerankQuestion`, and a response is made from a `RerankAnswer`.
"""
