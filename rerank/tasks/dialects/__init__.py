"""HTTP bodies of rerank and decision APIs, declared once for our server and for clients of other servers."""
