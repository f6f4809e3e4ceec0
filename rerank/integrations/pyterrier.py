"""A reranker for PyTerrier, as a transformer of result frames. It requires the extra ``pyterrier``, but not Java."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rerank.integrations.framework_reranker import FrameworkReranker, RankedPositions, missing_framework_error
from rerank.reranker import Reranker

try:
    import pyterrier as pt
except ImportError as error:
    raise missing_framework_error("pyterrier", error) from error

if TYPE_CHECKING:
    import pandas as pd


class RerankerTransformer(pt.Transformer):
    """A stage that reranks, as in ``bm25 % 100 >> pt.text.get_text(dataset) >> RerankerTransformer("smollm2-135m")``.

    The input must have the columns ``qid``, ``query``, ``docno`` and the text. If there is a column ``score``, it
    determines the first-stage order. The output has all columns of the input, and the columns ``score`` (the relevance
    score) and ``rank`` (from 0). The arguments are those of `FrameworkReranker`, and the name of the column with the
    text.
    """

    #: Label in diagrams. Without the key ``help_url``, PyTerrier would download an index of its documentation to find
    #: the class.
    schematic: ClassVar[dict[str, Any]] = {"label": "Reranker", "help_url": None}

    def __init__(
        self,
        model: str | None = None,
        settings: dict[str, Any] | None = None,
        *,
        reranker: Reranker | None = None,
        top_n: int | None = None,
        threshold: float | None = None,
        text_field: str = "text",
    ) -> None:
        super().__init__()
        # PyTerrier describes and rebuilds transformers from attributes that are named like the arguments.
        self.model, self.settings, self.reranker = model, settings, reranker
        self.top_n, self.threshold, self.text_field = top_n, threshold, text_field
        self._ranker = FrameworkReranker(
            model=model, settings=settings or {}, reranker=reranker, top_n=top_n, threshold=threshold
        )

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of each query, best first; queries keep their order."""
        import pandas as pd  # PyTerrier installs it

        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        if inp.empty:
            return inp.assign(score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        groups = [group for _, group in inp.groupby("qid", sort=False, dropna=False)]
        columns = {self.text_field: "text", "score": "score"}
        lists = (
            (group["query"].iloc[0], group.filter(columns.keys()).rename(columns=columns).to_dict("records"))
            for group in groups
        )
        ranked = zip(groups, self._ranker.rank_many_positions(lists), strict=True)
        return pd.concat([_reorder_rows(group, positions) for group, positions in ranked], ignore_index=True)

    def close(self) -> None:
        self._ranker.close_reranker()


def _reorder_rows(rows: pd.DataFrame, positions: RankedPositions) -> pd.DataFrame:
    """Return rows in the order of the positions, with the new scores and ranks."""
    scores = [score for _, score in positions]
    return rows.iloc[[position for position, _ in positions]].assign(score=scores, rank=range(len(scores)))
