"""Training losses: formulas that map the model's outputs for one list and its label to a number.

`TokenLoss`, `ListLoss` and `TextLoss` in `rerank.finetune.components` are their protocols. In the formulas, s are the
scores of the model, t those of the teacher, and n is the number of documents. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.finetune.components import ComponentBase, ListTarget, option
from rerank.finetune.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

#: Losses of sentence-transformers on whole lists, and on single pairs of query and document.
_LIST_LOSSES = ("ADRMSELoss", "LambdaLoss", "ListMLELoss", "ListNetLoss", "PListMLELoss", "RankNetLoss")
_PAIR_LOSSES = ("BinaryCrossEntropyLoss", "MSELoss")


class _OnTokens(ComponentBase):
    of: ClassVar[Literal["tokens"]] = "tokens"


class _OnScores(ComponentBase):
    of: ClassVar[Literal["scores"]] = "scores"


def teacher_scores(target: ListTarget, loss: str) -> Tensor:
    """Return the teacher's scores, shape (documents,), for a loss that needs them."""
    if not len(target.scores):
        raise DataError(
            f"The loss {loss!r} needs teacher scores, but at least one training list has none",
            expected="a label file whose lists have 'scores', one per document of 'initial_list'",
            remedy="Create labels with a teacher that assigns scores, or use a rank-based loss such as ranknet",
        )
    return target.scores


# Losses on the tokens of the generated permutation: weights w_i, shape (tokens,); outside identifiers, the rank is 0.


@dataclass(frozen=True, kw_only=True)
class Lm(_OnTokens):
    """Language-modelling loss: all tokens of the label have the weight w_i = 1."""

    def weights(self, ranks: Tensor) -> Tensor:
        return ranks.new_ones(ranks.shape)


@dataclass(frozen=True, kw_only=True)
class Importance(_OnTokens):
    """Importance-aware token loss: identifiers at higher ranks have larger weights.

    w_i = 1 + 1 / log2(rank + 1) for the tokens of an identifier, including brackets, and w_i = alpha for all other
    tokens. Source: Liu et al., ACL 2025, arXiv 2412.14574. Ranks come from character offsets, which are correct for any
    tokenizer; the authors' code recognises separators by one token id.
    """

    #: Weight of separators and of the end-of-text token; at most 1 in the paper, 1 in its code.
    alpha: float = option(1.0, at_least=0)

    def weights(self, ranks: Tensor) -> Tensor:
        # The lower bound avoids log2(1) = 0 in the denominator for tokens outside identifiers.
        identifier_weights = 1 + 1 / (ranks.clamp(min=1) + 1).log2()
        return identifier_weights.where(ranks > 0, ranks.new_tensor(self.alpha))


@dataclass(frozen=True, kw_only=True)
class Reciprocal(_OnTokens):
    """Token loss with w_i = 1 / rank for the tokens of an identifier, and w_i = 0 for all other tokens.

    The weights decrease faster with the rank than those of `Importance`: the top of the list dominates the loss.
    """

    def weights(self, ranks: Tensor) -> Tensor:
        return (1 / ranks.clamp(min=1)).where(ranks > 0, ranks.new_tensor(0.0))


# Losses on one score per document. Scores and ranks have the shape (n,).


@dataclass(frozen=True, kw_only=True)
class Ranknet(_OnScores):
    """RankNet: weighted mean of the logistic losses of all document pairs; 0 if there is no pair.

    L = sum over pairs with rank_i < rank_j of w_ij log(1 + exp(s_j - s_i)), divided by the sum of the w_ij. Source:
    Burges et al., ICML 2005 (RankNet). The weights w_ij = 1 / (rank_i + rank_j) come from FIRST (Reddy et al., EMNLP
    2024, arXiv 2406.15657). FIRST does not divide by the sum of the weights, so its loss for a list of 20 documents is
    about a hundred times as large.
    """

    weighted: bool = True  #: If False, all pairs have the weight 1.

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        from torch.nn.functional import softplus

        ranks = target.ranks
        is_better = ranks[:, None] < ranks[None, :]  # (n, n): document i is ranked above document j
        if not is_better.any():
            return scores.sum() * 0  # a zero that depends on the scores, so that backward works
        weights = (1 / (ranks[:, None] + ranks[None, :])) if self.weighted else scores.new_ones(is_better.shape)
        losses = softplus(scores[None, :] - scores[:, None])  # (n, n): log(1 + exp(s_j - s_i))
        return (weights * losses)[is_better].sum() / weights[is_better].sum()


@dataclass(frozen=True, kw_only=True)
class Lambdarank(_OnScores):
    """LambdaRank: logistic loss on all pairs, weighted by the change of nDCG if the two documents are swapped.

    L = sum over pairs with rank_i < rank_j of |g_i - g_j| |1/d_i - 1/d_j| log2(1 + exp(-sigma (s_i - s_j))). Here, g is
    the gain 1 / rank under the label, divided by the ideal DCG; d = log2(1 + rank) with the rank under the current
    scores. Source: Wang et al., CIKM 2018 (LambdaLoss), with the pair weights of LambdaRank (Burges et al., NIPS 2006).
    The gain 1 / rank works for labels without grades; FIRST's code uses it too.
    """

    sigma: float = option(1.0, above=0)  #: Steepness of the logistic function.

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        from torch.nn.functional import softplus

        # All (n,): gains under the label, ranks under the current scores, and their discounts 1 / d.
        gains = 1 / target.ranks
        current_ranks = (-scores.detach()).argsort(stable=True).argsort().float() + 1
        discounts = 1 / (1 + current_ranks).log2()
        ideal_dcg = (gains / (1 + target.ranks).log2()).sum()
        # (n, n): |delta nDCG| if documents i and j swap ranks; constant, since ranks have no gradient.
        deltas = (gains[:, None] - gains[None, :]).abs() * (discounts[:, None] - discounts[None, :]).abs() / ideal_dcg
        # (n, n): log2(1 + exp(-sigma (s_i - s_j))).
        losses = softplus(-self.sigma * (scores[:, None] - scores[None, :])) / scores.new_tensor(2.0).log()
        is_better = target.ranks[:, None] < target.ranks[None, :]
        return (deltas * losses)[is_better].sum()


@dataclass(frozen=True, kw_only=True)
class Listmle(_OnScores):
    """ListMLE: negative log-likelihood of the labelled permutation under the Plackett-Luce model, divided by n.

    L = (1/n) sum_k [log(sum of exp(s) over the documents at rank k and below) - s_k]. Source: Xia et al., ICML 2008,
    who use the sum over k; the mean gives lists of different lengths the same weight.
    """

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        ordered = scores[target.ranks.argsort()]  # (n,) in the order of the label
        # (n,): log of the sum of exp(s) from rank k to the end, computed as a cumulative sum from the end.
        log_normalisers = ordered.flip(0).logcumsumexp(dim=0).flip(0)
        return (log_normalisers - ordered).mean()


@dataclass(frozen=True, kw_only=True)
class Listnet(_OnScores):
    """ListNet: cross-entropy between the top-one probabilities of the label and of the scores.

    L = -sum_i P_i log softmax(s)_i, with P = softmax(-rank / temperature). Source: Cao et al., ICML 2007; in this
    implementation, ranks replace grades.
    """

    temperature: float = option(1.0, above=0)  #: Spread of P over the ranks; at 1, the first document has 63 %.

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        label_probabilities = (-target.ranks / self.temperature).softmax(dim=0)
        return -(label_probabilities * scores.log_softmax(dim=0)).sum()


@dataclass(frozen=True, kw_only=True)
class Infonce(_OnScores):
    """Contrastive loss (InfoNCE): negative log-probability of the label's first document among all documents.

    L = -log softmax(s / temperature)_i for the first document i of the label. With several positives, L is the mean
    over the positives. Source: van den Oord et al. 2018, arXiv 1807.03748, equation 4. With attention shares as scores
    and temperature 0.05, it is the auxiliary loss of BlockRank (arXiv 2510.05396).
    """

    temperature: float = option(0.05, above=0)  #: Divisor of the scores.
    positives: int = option(1, at_least=1)  #: Number of documents, from the top of the label, that count as positive.

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        log_probabilities = (scores / self.temperature).log_softmax(dim=0)
        return -log_probabilities[target.ranks <= self.positives].mean()


@dataclass(frozen=True, kw_only=True)
class AdrMse(_OnScores):
    """Approximate discounted rank MSE: squared error of the expected ranks, with a logarithmic discount.

    L = (1/n) sum_i (r_i - rank_i)^2 / log2(rank_i + 1), with the expected rank r_i = 1 + sum_{j != i} p(j before i) and
    p(j before i) = sigmoid((s_j - s_i) / temperature). Source: Schlatt et al., ECIR 2025, arXiv 2405.07920
    (Rank-DistiLLM).
    """

    temperature: float = option(1.0, above=0)  #: Small values make expected ranks nearly integral.

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        # (n, n): row i, column j holds p(j before i).
        precedes = ((scores[None, :] - scores[:, None]) / self.temperature).sigmoid()
        # The sum over all j already contains sigmoid(0) = 0.5 for j = i, so only 0.5 is added.
        expected_ranks = precedes.sum(dim=1) + 0.5
        return ((expected_ranks - target.ranks) ** 2 / (target.ranks + 1).log2()).mean()


@dataclass(frozen=True, kw_only=True)
class Distill(_OnScores):
    """Kullback-Leibler divergence between the score distributions of teacher and model over the documents of a list.

    L = KL(softmax(t / teacher_temperature) || softmax(s / temperature)). Sources: Hinton et al. 2015, arXiv 1503.02531;
    applied to the candidates of a query by Lin et al. 2020, arXiv 2010.11386.
    """

    temperature: float = option(1.0, above=0)  #: Divisor of the model's scores.
    teacher_temperature: float = option(1.0, above=0)  #: Divisor of the teacher's scores.
    #: Normalise the teacher's scores to mean 0 and standard deviation 1 within the list, so that one temperature suits
    #: teachers with different score scales.
    normalise: bool = True

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        teacher = teacher_scores(target, "distill")
        if self.normalise:
            # The lower bound avoids a division by 0 if all scores are equal: the distribution is then uniform.
            teacher = (teacher - teacher.mean()) / teacher.std(correction=0).clamp(min=1e-6)
        # log P of the teacher and log Q of the model; KL(P || Q) = sum_i P_i (log P_i - log Q_i).
        log_p = (teacher / self.teacher_temperature).log_softmax(dim=0)
        log_q = (scores / self.temperature).log_softmax(dim=0)
        return (log_p.exp() * (log_p - log_q)).sum()


@dataclass(frozen=True, kw_only=True)
class MarginMse(_OnScores):
    """Margin-MSE: mean squared error between the centred scores of model and teacher.

    L = (1/n) sum_i ((s_i - mean(s)) - (t_i - mean(t)))^2. The mean squared error of the margins s_i - s_j over all
    ordered pairs equals 2 L, so that no n^2 pairs are needed. Source: Hofstätter et al. 2020, arXiv 2010.02666
    (Margin-MSE), applied to a list instead of a pair.
    """

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        teacher = teacher_scores(target, "margin-mse")
        return (((scores - scores.mean()) - (teacher - teacher.mean())) ** 2).mean()


@dataclass(frozen=True, kw_only=True)
class SentenceTransformers(ComponentBase):
    """A loss of sentence-transformers on the teacher's scores, for cross-encoders.

    It runs the model itself, so it cannot be combined with another loss. Scores of the label file are not changed.
    """

    of: ClassVar[Literal["texts"]] = "texts"

    loss: str = "LambdaLoss"  #: Name of the class.
    options: Mapping[str, Any] = field(default_factory=dict)  #: Further keyword arguments of the class.

    def __post_init__(self) -> None:
        if self.loss not in _LIST_LOSSES + _PAIR_LOSSES:
            raise UnknownNameError("loss of sentence-transformers", self.loss, _LIST_LOSSES + _PAIR_LOSSES)

    @property
    def reads_pairs(self) -> bool:
        return self.loss in _PAIR_LOSSES

    def check_recipe(self, recipe: Recipe) -> None:
        method = recipe.method.method
        if method.partition(",")[0] != "cross-encoder":
            raise UsageError(
                f"The loss 'sentence-transformers' does not support method = {method!r}",
                expected="method = 'cross-encoder'",
            )
        if len(recipe.losses) > 1:
            raise UsageError(
                f"The recipe has {len(recipe.losses)} losses, one of which is 'sentence-transformers'",
                expected="this loss alone, because it runs the model itself",
            )

    def build(self, model: Any) -> Any:
        from sentence_transformers.cross_encoder import losses

        # Without this default, a batch would have only as many pairs as there are lists.
        defaults = {} if self.reads_pairs else {"mini_batch_size": -1}
        try:
            return getattr(losses, self.loss)(model, **(defaults | dict(self.options)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"The loss {self.loss} rejected options = {dict(self.options)}: {error}") from error
