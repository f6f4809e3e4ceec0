"""What is trained, as one torch module: a model, and the weights with which its heads are read, to one loss.

Imports torch at its top. The loss is computed inside `forward`, so that wrappers for several devices see one module
with one call. Only the places that a loss looks at get logits: there is never a tensor of length times vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rerank.errors import BackendError
from rerank.finetune.losses.base import ListLoss, Source, TokenLoss, Wanted
from rerank.finetune.trainer.examples import Example
from rerank.finetune.trainer.packed_attention import Look, Packing

#: Places whose logits are brought to float32 at a time.
_AT_A_TIME = 256
#: The weights of heads are softmax(this times the parameter), so that one learning rate serves them and an adapter:
#: Adam moves a parameter by about the learning rate a step, whatever its gradient.
STEEPNESS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One loss of several.

    Attributes:
        name: For the metrics.
        loss: The loss.
        source: Where its scores come from, for a loss of scores.
        weight: Its factor.
    """

    name: str
    loss: TokenLoss | ListLoss
    source: Source = "logits"
    weight: float = 1.0


class Readout(nn.Module):
    """How heads are read: S_d = |d|^power times the sum over heads h of w_h times the attention that d gets in h.

    w = softmax, |d| is the number of tokens of document d. A sum favours long documents, a mean short ones; which power
    is right is learnt.

    Args:
        heads: (layer, head) pairs.
        learnt: Whether weights and power train; otherwise they stay as they are.
    """

    def __init__(self, heads: Sequence[tuple[int, int]], *, learnt: bool) -> None:
        """All heads begin with the same weight, and lengths without a say."""
        super().__init__()
        self.heads = tuple(sorted(heads))
        self.logits = nn.Parameter(torch.zeros(len(heads)), requires_grad=learnt)
        self.power = nn.Parameter(torch.zeros(()), requires_grad=learnt)

    @property
    def weights(self) -> Tensor:
        """(heads,), above 0, with a sum of 1."""
        return (STEEPNESS * self.logits).softmax(dim=0)

    def forward(self, shares: Tensor, lengths: Tensor) -> Tensor:
        """(heads, documents) attention and (documents,) tokens to (documents,) scores."""
        # No matrix product: under autocast that would round to bfloat16.
        return (self.weights[:, None] * shares).sum(dim=0) * lengths**self.power


class Listwise(nn.Module):
    """A model under the losses of a recipe.

    Args:
        model: What an adapter's ``attach`` returned.
        losses: What is made small: the sum of the weighted losses, each a mean over the lists of a batch.
        readout: How heads are read; None where no loss looks at attention.
        packs: Whether the model's attention is ours, for packed texts; otherwise a batch is one text.
    """

    def __init__(
        self, model: Any, losses: Sequence[Term], readout: Readout | None = None, *, packs: bool = True
    ) -> None:
        """Keep the parts; where heads are read, remember which of them lie in which layer."""
        super().__init__()
        self.model, self.losses, self.readout, self._packs = model, tuple(losses), readout, packs
        #: Whether processes share out the weights. A layer is then gathered for the backward pass when a gradient comes
        #: to its output, so one has to, though a loss may look only at what is inside.
        self.shared_out = False
        self._heads: dict[int, list[int]] = {}
        for layer, head in readout.heads if readout else ():
            self._heads.setdefault(layer, []).append(head)

    @property
    def config(self) -> Any:
        """The model's, for the trainer."""
        return self.model.config

    def get_input_embeddings(self) -> Any:
        """The model's, for noise on embeddings."""
        return self.model.get_input_embeddings()

    def forward(self, ids: Tensor, positions: Tensor, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch.

        Args:
            ids: (1, length) all texts of all examples, one behind the other.
            positions: (1, length) each token's place in its own text.
            examples: What is read off and wanted.

        Returns:
            ``loss``, and ``parts``: the value of each term before its weight, for the metrics.

        Raises:
            BackendError: The loss is no number; the message names the queries.
        """
        layout, logs, row, end = self._read(ids, positions, examples)
        values: dict[str, list[Tensor]] = {term.name: [] for term in self.losses}
        for at, example in enumerate(examples):
            wanted = _wanted(example, ids.device)
            for term in self.losses:
                values[term.name].append(self._value(term, layout, at, logs, row, wanted))
        means = {name: torch.stack(found).mean() for name, found in values.items()}
        loss = cast(Tensor, sum(term.weight * means[term.name] for term in self.losses))
        if self.shared_out:
            loss = loss + 0.0 * end
        if not torch.isfinite(loss):
            raise BackendError(
                f"The loss is {float(loss.detach())} on the lists of queries {', '.join(e.query for e in examples)}",
                expected="a finite number",
                remedy="Lower the learning rate, or train in float32 (dtype in [training])",
            )
        return {"loss": loss, "parts": {name: value.detach() for name, value in means.items()}}

    def _read(
        self, ids: Tensor, positions: Tensor, examples: Sequence[Example]
    ) -> tuple[_Layout, Tensor, Packing, Tensor]:
        """Run the model: where all lies, the log-probabilities that are wanted, what was watched, and a last number."""
        layout = _Layout(examples, self.losses, ids.device)
        row = Packing(texts=layout.texts, looks=layout.looks, heads=self._heads)
        out = self.model(
            input_ids=ids,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=layout.kept if len(layout.kept) else 1,
            **({"packing": row} if self._packs else {}),
        )
        logs = _log_probabilities(out.logits[0], layout.pairs) if len(layout.kept) else ids.new_zeros(0)
        return layout, logs, row, out.logits[0, -1, 0].float()

    def shares(self, ids: Tensor, positions: Tensor, examples: Sequence[Example]) -> list[Tensor]:
        """(heads, documents) the attention that each document gets in each head, one an example."""
        _, _, row, _ = self._read(ids, positions, examples)
        return [torch.cat([row.seen[at, layer] for layer in self._heads]) for at in range(len(examples))]

    def scored(self, term: Term, shares: Tensor, example: Example) -> Tensor:
        """The value of a loss on attention for one example."""
        lengths = torch.tensor([max(1, end - start) for start, end in example.passages], device=shares.device)
        mixed = cast(Readout, self.readout)(shares, lengths.float())
        scores = mixed if term.source == "attention" else mixed.clamp(min=1e-9).log()
        return cast(ListLoss, term.loss)(scores, _wanted(example, shares.device))

    def _value(self, term: Term, layout: _Layout, at: int, logs: Tensor, row: Packing, wanted: Wanted) -> Tensor:
        if term.loss.of == "tokens":
            start, end = layout.labels[at]
            ranks = torch.tensor(layout.examples[at].label_ranks, dtype=torch.float32, device=logs.device)
            return (term.loss.weights(ranks) * -logs[start:end]).mean()
        score = term.loss
        if term.source == "logits":
            start, end = layout.scores[at]
            factors, owner, n = layout.factors(at)
            return score(logs.new_zeros(n).index_add(0, owner, factors * logs[start:end]), wanted)
        return self.scored(term, torch.cat([row.seen[at, layer] for layer in self._heads]), layout.examples[at])


def _wanted(example: Example, device: torch.device) -> Wanted:
    return Wanted(
        ranks=torch.tensor(example.ranks, dtype=torch.float32, device=device),
        scores=torch.tensor(example.scores, dtype=torch.float32, device=device),
    )


class _Layout:
    """Where in a packed row and among its wanted logits everything lies.

    Attributes:
        texts: First and past-last place of each text.
        kept: Places whose logits are wanted, rising.
        pairs: (2, wanted) row of the kept logits, and token.
        labels: For each example, which of the pairs are its label's.
        scores: Likewise for the terms of its scores.
        looks: What is watched, one an example.
    """

    def __init__(self, examples: Sequence[Example], losses: Sequence[Term], device: torch.device) -> None:
        self.examples, self._device = examples, device
        self.texts: list[tuple[int, int]] = []
        self.labels: list[tuple[int, int]] = []
        self.scores: list[tuple[int, int]] = []
        self.looks: list[Look] = []
        tokens = any(term.loss.of == "tokens" for term in losses)
        logits = any(term.loss.of == "scores" and term.source == "logits" for term in losses)
        attention = any(term.loss.of == "scores" and term.source != "logits" for term in losses)
        pairs: list[tuple[int, int]] = []
        at = 0
        for example in examples:
            begin, first = at, len(self.texts)
            for text in example.texts:
                self.texts.append((at, at + len(text)))
                at += len(text)
            if tokens:
                label = example.texts[0][example.label + 1 :]
                self.labels.append((len(pairs), len(pairs) + len(label)))
                pairs += [(begin + example.label + n, token) for n, token in enumerate(label)]
            if logits:
                terms = [(begin + place, token) for document in example.terms for place, token, _ in document]
                self.scores.append((len(pairs), len(pairs) + len(terms)))
                pairs += terms
            if attention:
                self.looks.append(self._look(example, first, begin))
        places = sorted({place for place, _ in pairs})
        row = {place: at for at, place in enumerate(places)}
        self.kept = torch.tensor(places, dtype=torch.long, device=device)
        self.pairs = torch.tensor(
            [[row[place] for place, _ in pairs], [token for _, token in pairs]], dtype=torch.long, device=device
        )

    def _look(self, example: Example, text: int, begin: int) -> Look:
        owner = torch.full((len(example),), len(example.passages), dtype=torch.long)
        for document, (start, end) in enumerate(example.passages):
            owner[start:end] = document
        rows = (begin + example.rows[0], begin + example.rows[1])
        return Look(text=text, rows=rows, owner=owner.to(self._device), documents=len(example.passages))

    def factors(self, at: int) -> tuple[Tensor, Tensor, int]:
        """Factor and document of each term of an example's scores, and how many documents there are."""
        terms = self.examples[at].terms
        flat = [(factor, document) for document, parts in enumerate(terms) for _, _, factor in parts]
        factors = torch.tensor([factor for factor, _ in flat], device=self._device)
        return factors, torch.tensor([document for _, document in flat], device=self._device), len(terms)


def _log_probabilities(logits: Tensor, pairs: Tensor) -> Tensor:
    """(wanted,) log P(token | what stands before), in float32.

    Args:
        logits: (places, vocabulary).
        pairs: (2, wanted) row and token.
    """
    rows, tokens = pairs
    parts = [part.float().logsumexp(dim=-1) for part in torch.split(logits, _AT_A_TIME)]
    return logits[rows, tokens].float() - torch.cat(parts)[rows]


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """One packed row of several examples, as `Listwise.forward` takes it."""
    texts = [text for example in examples for text in example.texts]
    ids = [token for text in texts for token in text]
    positions = [place for text in texts for place in range(len(text))]
    return {"ids": torch.tensor([ids]), "positions": torch.tensor([positions]), "examples": list(examples)}


def checkpoint_activations(model: Any) -> None:
    """Let a model of transformers compute its activations again in the backward pass."""
    how = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(how)
    else:  # before transformers 5.24
        model.gradient_checkpointing_enable(how)
