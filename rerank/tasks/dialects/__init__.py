"""HTTP bodies of rerank and decision APIs, declared once for our server and for clients of other servers.

The module `question` defines the question and the answer that all rerank dialects share. Each other module declares the
pydantic bodies of one dialect: a request can be converted to a `RerankQuestion`, and a response is created from a
`RerankAnswer`.
"""
