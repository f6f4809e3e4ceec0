"""The backend ``jina_vl``: scores pictures and texts with jina-reranker-m0, a Qwen2-VL with a scoring head.

Source: JinaVLForSequenceClassification in vLLM (vllm/model_executor/models/jina_vl.py and config.py, Apache-2.0), whose
tests compare it with the authors' ``modeling.py``; no code of the model's repository is run. A special token follows
the prompt. The score is the output of the head, two dense layers, for the last hidden state at this token, minus 2.65;
the authors' score is its sigmoid. Torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from rerank.backends.cross_encoder import load_own_class
from rerank.backends.vlm import Vlm, VlmTokens
from rerank.io.pictures import require_pillow
from rerank.lm.jobs import Job
from rerank.lm.loading import complete_weights, quiet_transformers, require_torch
from rerank.lm.model_files import ModelFiles
from rerank.lm.tokenizers import ChatRenderer
from rerank.prompts.base import PICTURE, Prompt
from rerank.tasks import BackendOptions, HeadTask, Reply

if TYPE_CHECKING:
    from rerank.backends.vlm.tasks import PictureJob

_ARCHITECTURE = "JinaVLForRanking"
#: Token after the prompt, at which the head reads the hidden state.
SCORE_TOKEN = 100
LOGIT_BIAS = 2.65
_PICTURE_TOKEN = "<|image_pad|>"
#: Pictures are resized to between these numbers of pixels, as in the authors' code.
_PIXELS = {"shortest_edge": 3136, "longest_edge": 602112}
#: Names of the weights in the checkpoint, as of older versions of transformers, and those of today.
_NAMES = {r"^visual": "model.visual", r"^model(?!\.(language_model|visual))": "model.language_model"}


class PairText(ChatRenderer):
    """A renderer of verbatim prompts, in which the processor replaces the token of each picture."""

    marks = (_PICTURE_TOKEN,)

    def render(self, prompt: Prompt, *, thinking: bool = False) -> str:
        text = "".join(message.content for message in prompt)
        return text.replace(PICTURE, f"<|vision_start|>{_PICTURE_TOKEN}<|vision_end|>")


class PairTokens(VlmTokens):
    """A token counter that adds the token at which the head reads to each prompt."""

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        from rerank.backends.vlm.tasks import append_tokens

        return append_tokens(super().inputs(prompt), (SCORE_TOKEN,))


class JinaVl(Vlm):
    """A backend that runs jina-reranker-m0 and models of the same class. Only the option context size has an effect."""

    tasks = frozenset({HeadTask})
    takes_verbatim = True

    def _make_tokens(self, processor: Any) -> PairTokens:
        return PairTokens(processor, context_size=self.tokens.context_size, chat=PairText(processor.tokenizer))

    @classmethod
    def load(cls, name: str | Path, options: BackendOptions | None = None) -> Self:
        require_pillow()
        return load_own_class(cls, name, options, _load_model)

    def _run(self, jobs: list[Job]) -> list[Reply]:
        from rerank.lm.local_tasks import make_reply

        torch, _ = require_torch()
        replies = []
        for job in jobs:
            inputs = cast("PictureJob", job).inputs
            with quiet_transformers(), torch.inference_mode():
                state = self.model.model(**inputs, use_cache=False).last_hidden_state[:, -1]  # (1, hidden size)
                score = float(self.model.score(state.float())) - LOGIT_BIAS
            replies.append(replace(make_reply(job, "", 0, steps=0), scores=(score,)))
        return replies


def _load_model(files: ModelFiles, *, device: str, dtype: str, **attention: str) -> tuple[Any, Any]:
    torch, transformers = require_torch()
    files.check_class(_ARCHITECTURE, "jinaai/jina-reranker-m0")
    config = transformers.Qwen2VLConfig.from_pretrained(files.folder, trust_remote_code=False)
    processor = transformers.Qwen2VLProcessor.from_pretrained(files.folder, trust_remote_code=False, size=_PIXELS)

    base: Any = transformers.Qwen2VLPreTrainedModel

    class RankingModel(base):  # type: ignore[misc]
        """Qwen2-VL without an output head, and the scoring head, with attribute names that match the weights' names."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            width = config.get_text_config().hidden_size
            self.model = transformers.Qwen2VLModel(config)
            self.score = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
            self.post_init()

    RankingModel.__name__ = _ARCHITECTURE  # that of the checkpoint, for the message about missing weights
    with complete_weights(files):
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "device_map": device, **attention}
        model = RankingModel.from_pretrained(files.folder, config=config, key_mapping=_NAMES, **options)
    model.score.float()  # rounded scores would tie
    return model.eval(), processor
