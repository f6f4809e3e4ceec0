"""Models that think before they answer, and the tokens that their thoughts get besides the answer.

Thoughts count towards the token limit of a reply even if the server does not show them, so a limit that fits a ranking
leaves no tokens for the ranking itself. Models are recognised by name, or by what their replies contain.
"""

import re
from collections.abc import Mapping

#: Tokens for thoughts that the user does not limit with ``--thinking-tokens``: in the first request, and in the second
#: if they were not enough. They are a limit, not a number of tokens to be used. GPT-5 spends about 1,400 on an answer
#: of 120 (github.com/covan-ai/covan, pull request 112); OpenAI's guide to reasoning recommends up to 25,000.
ROOM, MORE_ROOM = 8_192, 32_768

#: Regular expressions for names of models that think unless they are told not to, by family.
_THINKING: Mapping[str, str] = {
    "OpenAI": r"o[1-9]\b|gpt-(?!35)(?:[5-9]|[1-9]\d|oss)\b",
    "Gemini": r"gemini-(?:2\.5|[3-9]|[1-9]\d|(?:flash|pro)(?:-lite)?-latest)\b",
    "DeepSeek": r"deepseek-(?:r[1-9]|v[4-9]|reasoner|flash|pro)\b",
    "Qwen": r"qwq|qwen-?[3-9](?!\d|b\b)",
    "Grok": r"grok-(?:3-mini|[4-9]|code)\b",
    "GLM": r"glm-(?:4\.[5-9]|[5-9]|z1)",
    "Kimi": r"kimi-k2[.-][5-9]",
    "MiniMax": r"minimax-m[1-9]",
    "Mistral": r"magistral",
    "any": r"thinking|reason(?:er|ing)",
}
#: Parts of the names of their relatives that do not think.
_OTHERS = r"instruct|chat|coder|embed|rerank|non-?(?:thinking|reasoning)"
_PATTERN = re.compile(rf"(?!.*(?:{_OTHERS})).*(?<![a-z0-9])(?:{'|'.join(_THINKING.values())})")


def thinks_by_default(model: str) -> bool:
    """Return whether a model is known to think before it answers, by its name without the organisation.

    >>> [thinks_by_default(name) for name in ("openai/gpt-5-mini", "gpt-5-chat-latest", "gpt-35-turbo", "qwen-72b")]
    [True, False, False, False]
    """
    return _PATTERN.match(model.lower().rpartition("/")[2]) is not None
