"""The fusing judge: an encoder reads each passage separately, and the decoder generates the order of all passages.

Source: LiT5-Distill, Tamber et al. 2023, arXiv 2312.16098, which is a listwise form of fusion in the decoder (Izacard
and Grave, EACL 2021, arXiv 2007.01282).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rerank.judges.generate import Generate
from rerank.prompts.identifiers import make_prompt_identifiers
from rerank.tasks import FusionTask, Request, Sampling
from rerank.types import Window


@dataclass(frozen=True, kw_only=True)
class Fuse(Generate):
    """A judge whose request has one text per passage, each with its identifier; the reply is parsed as in `Generate`.

    The context limits the length of each text, not the size of the window: each passage is truncated so that its text
    fits. Constrained decoding is not available.
    """

    needs = (FusionTask,)
    prompt = "lit5"

    constrain: bool = False

    @classmethod
    def suggest_prompt(cls, options: Mapping[str, str]) -> str:
        """Return the name of the built-in prompt, which shows one passage."""
        return cls.prompt

    def make_requests(self, window: Window) -> list[Request]:
        """Return a list of one request, whose turns are the texts of the passages."""
        labels = make_prompt_identifiers(self.identifiers, len(window), self.backend.tokens)
        fitted = [
            self.budget.fit(self.template, Window(window.query, (doc,)), reply_tokens=0, labels=[label])
            for doc, label in zip(window.docs, labels, strict=True)
        ]
        prompt = tuple(turn for text in fitted for turn in text.prompt)
        dropped = tuple(sum(text.dropped) for text in fitted) if any(text.dropped for text in fitted) else ()
        limits = self.limits
        sampling = Sampling(
            max_tokens=self.reply_tokens(labels, window.depth), temperature=limits.temperature, seed=limits.seed
        )
        return [Request(prompt=prompt, sampling=sampling, window=window, task=FusionTask(), dropped=dropped)]
