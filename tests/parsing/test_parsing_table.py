"""A table of malformed replies: the text, the number of passages, and the expected order and status."""

from __future__ import annotations

import pytest

from rerank.parsing import parse_permutation

THINK = "<think>At first [1] looks better than [3].</think>"

# (reply, count, order as said (1-based), status)
REPLIES: list[tuple[str, int, list[int], str]] = [
    # as asked
    ("[2] > [1] > [3]", 3, [2, 1, 3], "ok"),
    ("  [2]>[1]\n>[3]\n", 3, [2, 1, 3], "ok"),
    ("[1]", 1, [1], "ok"),
    ("", 0, [], "ok"),
    # thoughts and protocol marks are no part of the answer
    (f"{THINK}\n\n[2] > [1] > [3]", 3, [2, 1, 3], "ok"),
    ("so [3] is off topic\n</think>\n[2] > [1] > [3]", 3, [2, 1, 3], "ok"),
    (f"{THINK}<think>or is it [2]?</think>[3] > [2] > [1]", 3, [3, 2, 1], "ok"),
    ("<Thinking>\nmaybe [1] > [2] > [3]", 3, [], "empty"),
    ("[3] > [2] > [1]<think>I might have said [1]", 3, [3, 2, 1], "ok"),
    ("◁think▷[1]◁/think▷[2] > [1]", 2, [2, 1], "ok"),
    ("[THINK]hm [1][/THINK][2] > [1]", 2, [2, 1], "ok"),
    ("<|begin_of_thought|>[1]<|end_of_thought|>[2] > [1]", 2, [2, 1], "ok"),
    (
        "<|channel|>analysis<|message|>1 or 2<|end|><|start|>assistant<|channel|>final<|message|>[2] > [1]",
        2,
        [2, 1],
        "ok",
    ),
    ("<answer> [2] > [1] </answer>", 2, [2, 1], "ok"),
    ("[rankstart] [2] > [1] [rankend]", 2, [2, 1], "ok"),
    ("[2] > [1]</s>", 2, [2, 1], "ok"),
    # words around the ranking, and digits in them
    ("Here is the ranking of the 3 passages: [2] > [1] > [3]", 3, [2, 1, 3], "repaired"),
    ("Ranking the 2 passages for query 1:\n\n[2] > [1]\n\nAll 2 were ranked.", 2, [2, 1], "repaired"),
    ("[2] > [1] > [3]\n\n[3] has no date, and [1] cites [2].", 3, [2, 1, 3], "repaired"),
    ("Passages 1 to 3 were read. [3] > [1] > [2]", 3, [3, 1, 2], "repaired"),
    ("The final order (by relevance) is: \\boxed{[2] > [1]}", 2, [2, 1], "repaired"),
    # duplicate, unknown and missing identifiers
    ("[2] > [2] > [1] > [3] > [1]", 3, [2, 1, 3], "repaired"),
    ("[0] > [2] > [1] > [4] > [3]", 3, [2, 1, 3], "repaired"),
    ("[2] > [123456789012345678901234567890] > [1]", 2, [2, 1], "repaired"),
    ("[3] > [2]", 4, [3, 2], "partial"),
    ("[7] > [9]", 3, [], "empty"),
    ("[] > []", 3, [], "empty"),
    ("[2] > [] > [1]", 2, [2, 1], "repaired"),
    # cut by the token limit
    ("[2] > [3] > [1", 3, [2, 3], "partial"),
    ("[12] > [3] > [1", 12, [12, 3], "partial"),
    ("[2] > [1] > [", 2, [2, 1], "repaired"),
    ("[2] > [1] >", 2, [2, 1], "repaired"),
    ('{"ranking": [2, 3, 1', 3, [2, 3], "partial"),
    ("Passage 3, 2. Passage", 3, [3], "partial"),
    # a bracket too few
    ("[2 > [1] > [3]", 3, [2, 1, 3], "repaired"),
    ("2] > [1] > [3]", 3, [2, 1, 3], "repaired"),
    ("[[2] > [1] > [3]]", 3, [2, 1, 3], "repaired"),
    ("[2, 1 [3]", 3, [3], "partial"),
    # other separators
    ("[2], [1], [3]", 3, [2, 1, 3], "repaired"),
    ("[2][1][3]", 3, [2, 1, 3], "repaired"),
    ("[2]\n[1]\n[3]", 3, [2, 1, 3], "repaired"),
    ("[2] = [1] > [3]", 3, [2, 1, 3], "repaired"),
    ("[2] → [1] → [3]", 3, [2, 1, 3], "repaired"),
    ("[2] &gt; [1]", 2, [2, 1], "repaired"),
    ("**[2]** > **[1]**", 2, [2, 1], "repaired"),
    ("```\n[2] > [1]\n```", 2, [2, 1], "repaired"),
    (r"\[2\] > \[1\]", 2, [2, 1], "repaired"),
    ("[2], [1] and then [3]", 3, [2, 1, 3], "repaired"),
    ("[2] > [1], [3]", 3, [2, 1, 3], "repaired"),
    # enumerators are no identifiers
    ("1. [3] > [1] > [2]", 3, [3, 1, 2], "repaired"),
    ("1. [3] 2. [1] 3. [2]", 3, [3, 1, 2], "repaired"),
    ("1. [3] > 2. [1] > 3. [2]", 3, [3, 1, 2], "repaired"),
    ("1. [3]\n2. [1]\n3. [2]", 3, [3, 1, 2], "repaired"),
    ("1. Passage 3\n2. Passage 1\n3. Passage 2", 3, [3, 1, 2], "repaired"),
    ("1) 3\n2) 1\n3) 2", 3, [3, 1, 2], "repaired"),
    ("1. 3\n2. 1\n3. 2", 3, [3, 1, 2], "repaired"),
    ("1. 2\n2. 1", 2, [2, 1], "repaired"),
    ("Rank 1: [3]\nRank 2: [1]\nRank 3: [2]", 3, [3, 1, 2], "repaired"),
    ("- [3]\n- [1]\n- [2]", 3, [3, 1, 2], "repaired"),
    ("1. [3] says more than [1]\n2. [1] is dated\n3. [2] is off topic", 3, [3, 1, 2], "repaired"),
    ("1. **Passage 3** - on topic\n2. **Passage 1** - unlike passage 2\n3. **Passage 2**", 3, [3, 1, 2], "repaired"),
    ("1. [3] says more than [2]\n2. [1] is dated", 3, [3, 1], "partial"),
    ("Passage 3, 2. Passage 1, 3. Passage 2", 3, [3, 1, 2], "repaired"),
    ("Passage 3, 2. [1], 3. [2]", 3, [3, 1, 2], "repaired"),
    ("Passages 3, 1, 2. The others are off topic.", 3, [3, 1, 2], "repaired"),
    ("Rank 1: [3] says more than [1]\nRank 2: [2] is dated\nRank 3: [1]", 3, [3, 2, 1], "repaired"),
    ("The best are passages 3, 1, 2.", 3, [3, 1, 2], "repaired"),
    ("1. fleas live long\n2. dogs bark\n3. cats sleep", 3, [], "empty"),
    ("1. fleas live long\n2. 7", 9, [], "empty"),
    ("Unlike [1], these are on topic:\n[3] is the best\n[2] is next", 3, [3, 2], "partial"),
    # passage names
    ("Passage 2 > Passage 1 > Passage 3", 3, [2, 1, 3], "repaired"),
    ("[Passage 2] > [Passage 1]", 2, [2, 1], "repaired"),
    ("[PASSAGE2, PASSAGE3, PASSAGE1]", 3, [2, 3, 1], "repaired"),
    ("Passages 2, 1 and 3", 3, [2, 1, 3], "repaired"),
    ("Document #2, Document #1", 2, [2, 1], "repaired"),
    ("Passage (#2), passage (#1)", 2, [2, 1], "repaired"),
    ("Passage [2] > Passage [1]", 2, [2, 1], "repaired"),
    ("Passages 3,,, 1", 3, [3], "partial"),
    ("Of the passages... 2 are on topic.", 3, [], "empty"),
    ("段落2 > 段落1", 2, [2, 1], "repaired"),
    ("I would put [2] first, followed by [1], while [3] misses the point.", 3, [2, 1, 3], "repaired"),
    # lists and bare numbers
    ("[2, 1, 3]", 3, [2, 1, 3], "repaired"),
    ("[2 > 1 > 3]", 3, [2, 1, 3], "repaired"),
    ("[2 > 1 > 3], not [1, 2, 3]", 3, [2, 1, 3], "repaired"),
    ("[2, 1]. Neither [3] nor [4] is on topic.", 4, [2, 1], "partial"),
    ("[2], [1], [3]. Neither [4] nor [5] is on topic.", 5, [2, 1, 3], "partial"),
    ("2 > 1 > 3", 3, [2, 1, 3], "repaired"),
    ("The order is 2 > 1 > 3.", 3, [2, 1, 3], "repaired"),
    ("For passages 1 to 3 the order is 3 > 1 > 2.", 3, [3, 1, 2], "repaired"),
    ("[2] > [1] > [3], since 3 > 2 in doubt", 3, [2, 1, 3], "repaired"),
    ('The answer is [2] > [1] > [3].\n{"id": 1}', 3, [2, 1, 3], "repaired"),
    ("(2) > (1) > (3)", 3, [2, 1, 3], "repaired"),
    ("2, 1, 3", 3, [2, 1, 3], "repaired"),
    ("Ranking: 2, 1, 3.", 3, [2, 1, 3], "repaired"),
    ("2 1 3", 3, [2, 1, 3], "repaired"),
    ("2\n1\n3", 3, [2, 1, 3], "repaired"),
    ("2", 3, [2], "partial"),
    ("All 3 passages deal with fleas, 2 of them in 2019.", 3, [], "empty"),
    ("The scores are 0.3 and 0.2", 3, [], "empty"),
    ("The scores are:\n1.3\n2.1", 3, [], "empty"),
    # a whole permutation in a sentence; anything less is prose
    ("The order is 2, 1, 3.", 3, [2, 1, 3], "repaired"),
    ("The order is 2, 1, 3. I am sure.", 3, [2, 1, 3], "repaired"),
    ("I would say 2, 1 and 3, in this order", 3, [2, 1, 3], "repaired"),
    ("Perhaps 1, 2, 3. No, it is 3, 2, 1 after all", 3, [3, 2, 1], "repaired"),
    ("The order is 2, 1.", 3, [], "empty"),
    ("In 2019, 2, 1, 3 were printed", 3, [], "empty"),
    ("They weigh 0.1, 2 and 1.2, 3 grams", 2, [], "empty"),
    ("They weigh 0.1, 2 grams", 2, [], "empty"),
    ("They weigh 2, 1.5 grams", 2, [], "empty"),
    ("The answer is 1, as ever.", 1, [], "empty"),
    ("I compared 1, 2, 3 with [2].", 3, [2], "partial"),
    # a chain in ascending order is reversed: the passage behind the last "<" is best
    ("[3] < [1] < [2]", 3, [2, 1, 3], "repaired"),
    ("[3] &lt; [1]\n＜ [2]", 3, [2, 1, 3], "repaired"),
    ("From worst to best: [Passage 3] < [Passage 1] < [Passage 2].", 3, [2, 1, 3], "repaired"),
    ("Passage 3 < Passage 1 < Passage 2", 3, [2, 1, 3], "repaired"),
    ("3 < 1 < 2", 3, [2, 1, 3], "repaired"),
    ("[1] > [2] < [3]", 3, [1, 2], "partial"),
    ("[2] < [1]. So: [1] > [3] > [2]", 3, [1, 3, 2], "repaired"),
    # a range is no order and no two identifiers: it names nothing
    ("[1-3]", 3, [], "empty"),
    ("1–3", 3, [], "empty"),
    ("2-2", 3, [2], "partial"),
    ("[1-3], [4-5]", 5, [], "empty"),
    ("[1-3] > [5] > [4]", 5, [5, 4], "partial"),
    ("1-3 > 5 > 4", 5, [5, 4], "partial"),
    ("2-1, 3", 3, [2, 1, 3], "repaired"),
    ("2-1-3", 3, [2, 1, 3], "repaired"),
    ("2 - 1", 2, [2, 1], "repaired"),
    # JSON
    ('{"ranking": [2, 1, 3]}', 3, [2, 1, 3], "repaired"),
    ('```json\n{"ranking": ["[2]", "[1]"]}\n```', 2, [2, 1], "repaired"),
    ('{"[1]": 5, "[2]": 3, "[3]": 8}', 3, [3, 1, 2], "repaired"),
    ('<answer>\n```json\n{"[1]": 0, "[2]": 3.5}\n```\n</answer>', 3, [2, 1], "partial"),
    # the forms in which published rerankers reply
    ("<think>\n[1] is off topic.\n</think>\n<answer> [2] > [1] > [3] </answer>", 3, [2, 1, 3], "ok"),
    ("<think>[1]</think> <answer>[2] > [1] > [3", 3, [2, 1], "partial"),
    ("[3] > [2] = [1]", 3, [3, 2, 1], "repaired"),
    ("[PASSAGE2, PASSAGE3, PASSAGE1]", 3, [2, 3, 1], "repaired"),
    ('{"reason": "[1] is older than [2] is", "ranking": [2, 1, 3]}', 3, [2, 1, 3], "repaired"),
    ('[{"id": 1, "rank": 2}, {"id": 2, "rank": 1}]', 2, [2, 1], "repaired"),
    ('[{"passage": "[1]", "score": 0.1}, {"passage": "[2]", "score": 0.9}]', 2, [2, 1], "repaired"),
    ('Sure:\n{"results": [{"passage_id": 2}, {"passage_id": 1}]}', 2, [2, 1], "repaired"),
    ('{"id": 1, "rank": 2}\n{"id": 2, "rank": 1}', 2, [2, 1], "repaired"),
    ('[{"id": 2, "rank": 1}, {"id": 1, "ra', 2, [2, 1], "repaired"),
    # other scripts
    ("【2】 > 【1】", 2, [2, 1], "repaired"),
    ("［２］＞［１］", 2, [2, 1], "repaired"),
    ("[²] > [¹]", 2, [2, 1], "repaired"),
    ("[2]² > [1]", 2, [2, 1], "repaired"),
    ("② > ① > ③", 3, [2, 1, 3], "repaired"),
    ("[٢] > [١]", 2, [2, 1], "repaired"),
    ("[2]、[1]、[3]", 3, [2, 1, 3], "repaired"),
    # two rankings in one reply
    ("[1] > [2]... Actually the final ranking: [2] > [1]", 2, [2, 1], "repaired"),
    ("[1] > [2] > [3]\n[3] > [2] > [1]", 3, [3, 2, 1], "repaired"),
    ("The format is [2] > [1].\n1. [4]\n2. [5]\n3. [1]\n4. [3]\n5. [2]", 5, [4, 5, 1, 3, 2], "repaired"),
    ("[1] is on fleas.\n[2] is on dogs.\n[3] is on cats.\n\nSo: [3] > [2]", 3, [3, 2], "partial"),
    ("[1] [2] [3] [4] [5] [6] were read. So: [3] > [2] > [5]", 6, [3, 2, 5], "partial"),
    ("[1] > [2]\n[1] > [3]\n[1] > [4]\n[1] > [5]", 5, [1, 2, 3, 4, 5], "repaired"),
    # declined
    ("I'm sorry, but I cannot help with that.", 3, [], "refused"),
    ("As an AI language model I have no opinion on this.", 3, [], "refused"),
    ("I’m unable to rank passages 1 to 3.", 3, [], "refused"),
    ("Es tut mir leid, das kann ich nicht.", 3, [], "refused"),
    ("Lo siento, no puedo ayudar.", 3, [], "refused"),
    ("抱歉，我无法对这些内容排序。", 3, [], "refused"),
    ("Je ne peux pas répondre.", 3, [], "refused"),
    ("申し訳ありませんが、お答えできません。", 3, [], "refused"),
    ("I cannot rank 1, 2, 3.", 3, [], "refused"),
    ("I cannot rank [1].", 3, [1], "partial"),  # brackets are believed, whatever is said around them
    ("I'm sorry for the wait: [2] > [1]", 2, [2, 1], "repaired"),
    # nothing
    ("", 3, [], "empty"),
    ("   \n", 3, [], "empty"),
    ("The passages are about fleas.", 3, [], "empty"),
    ("[[[[[", 3, [], "empty"),
    ("anything [1]", 0, [], "repaired"),
]


def test_the_table_is_long_enough() -> None:
    assert len({reply for reply, *_ in REPLIES}) >= 50


@pytest.mark.parametrize(("reply", "count", "order", "status"), REPLIES)
def test_reply(reply: str, count: int, order: list[int], status: str) -> None:
    parsed = parse_permutation(reply, count)
    assert parsed.to_dict()["order"] == order, parsed.detail
    assert parsed.status == status, parsed.detail
    assert parsed.to_dict()["missing"] == [n for n in range(1, count + 1) if n not in order]
