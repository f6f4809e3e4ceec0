"""Entry point of ``python -m rerank``, the same as the ``rerank`` command."""

from __future__ import annotations

from rerank.cli import main

if __name__ == "__main__":
    main()
