"""Rerankers as components of other frameworks, with one module per framework and an extra that installs the framework.

No module is imported here, because each needs its framework: ``from rerank.integrations.langchain import ...``.
"""
