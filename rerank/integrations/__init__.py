"""Rerankers as components of other frameworks: one module per framework, whose package an extra installs.

No module is imported here, since each needs its framework: ``from rerank.integrations.langchain import ...``.
"""
