"""The torch module that is trained: a language model, weights of its attention heads, and the losses of a recipe.

The loss is computed inside `forward`, so that wrappers for several devices wrap a single module with one call. Logits
are computed only at the positions that a loss uses, so no tensor has the size length times vocabulary. Imports torch.

Head weights are fitted on the attention of each head of the untrained model, which is computed once. The training of
the model starts from these weights: most of the relevance signal is in a few heads, and training with the learning rate
of an adapter would find these heads only slowly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rerank.errors import BackendError
from rerank.finetune.components import ListLoss, ListTarget, RecipeComponents, TextLoss, TokenLoss
from rerank.finetune.recipe import Recipe, ScoreSource
from rerank.finetune.trainer.examples import TrainingExample
from rerank.finetune.trainer.packed_attention import AttentionRegion, PackedTrainingRow
from rerank.finetune.trainer.schedule import ScheduledExamples

#: Number of positions whose logits are converted to float32 at a time.
_CHUNK = 256
#: Head weights are softmax(STEEPNESS * parameter), so that the learning rate of an adapter works for them too: Adam
#: changes a parameter by about the learning rate per step.
STEEPNESS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedLoss:
    """One loss of a recipe with its weight, a term of the total loss; ``name`` is its name in the metrics."""

    name: str
    loss: TokenLoss | ListLoss | TextLoss
    source: ScoreSource = "logits"  #: Model output from which a `ListLoss` computes document scores.
    weight: float = 1.0


def weighted_losses(recipe: Recipe, components: RecipeComponents) -> list[WeightedLoss]:
    """Return the terms of the total loss of a recipe."""
    return [
        WeightedLoss(name=table.name, loss=loss, source=table.on or "logits", weight=table.weight)
        for table, loss in zip(recipe.losses, components.losses, strict=True)
    ]


def sum_weighted_losses(terms: Sequence[WeightedLoss], means: Mapping[str, Tensor], queries: Sequence[str]) -> Tensor:
    """Return the total loss of a batch, a scalar; ``means`` are the losses by name, ``queries`` ids for messages."""
    loss = cast(Tensor, sum(term.weight * means[term.name] for term in terms))
    if not torch.isfinite(loss):
        raise BackendError(
            f"The loss is {float(loss.detach())} on the lists of queries {', '.join(queries)}",
            expected="a finite number",
            remedy="Lower lr in [optimizer], or set dtype = 'float32' in [training]",
        )
    return loss


class AttentionScorer(nn.Module):
    """Document scores from attention: S_d = |d|^power * sum_h w_h a_hd.

    a_hd is the attention that document d receives in head h, a pair (layer, head); w is the softmax of one parameter
    per head, and |d| is the number of tokens of d. With power 0, the attention is summed over tokens, which favours
    long documents; with power -1, it is averaged over tokens, which favours short documents.
    """

    def __init__(self, heads: Sequence[tuple[int, int]], *, learnt: bool) -> None:
        super().__init__()
        self.heads = tuple(sorted(heads))
        self.logits = nn.Parameter(torch.zeros(len(heads)), requires_grad=learnt)
        self.power = nn.Parameter(torch.zeros(()), requires_grad=learnt)

    @property
    def weights(self) -> Tensor:
        """Weight per head, shape (heads,); the weights are positive and sum to 1."""
        return (STEEPNESS * self.logits).softmax(dim=0)

    def forward(self, shares: Tensor, lengths: Tensor) -> Tensor:
        """Return one score per document, from its attention (heads, documents) and its length (documents,)."""
        # A matrix product is avoided, because autocast would compute it in bfloat16.
        return (self.weights[:, None] * shares).sum(dim=0) * lengths**self.power


class ListwiseModule(nn.Module):
    """A language model together with the losses of a recipe, which `forward` computes.

    Each loss is averaged over the lists of a batch; the total loss is the weighted sum. ``readout`` is None if no loss
    uses attention. Unless the model uses `packed_attention` (``packs``), a batch must consist of a single text.
    """

    def __init__(
        self, model: Any, losses: Sequence[WeightedLoss], readout: AttentionScorer | None = None, *, packs: bool = True
    ) -> None:
        super().__init__()
        self.model, self.losses, self.readout, self._packs = model, tuple(losses), readout, packs
        #: True if weights are sharded. FSDP then gathers a layer for the backward pass only when a gradient reaches the
        #: output of the layer, so `forward` adds a term with gradient 0 for layers of which only attention is used.
        self.is_sharded = False
        #: A `ModelGatherer` of an unsharded copy of the model; None if inference can use the model itself.
        self.gather_model: Callable[..., Any] | None = None
        self._heads: dict[int, list[int]] = {}
        for layer, head in readout.heads if readout else ():
            self._heads.setdefault(layer, []).append(head)

    @property
    def config(self) -> Any:
        return self.model.config

    def get_input_embeddings(self) -> Any:
        """Return the input embeddings of the model, to which NEFTune adds noise."""
        return self.model.get_input_embeddings()

    def forward(self, ids: Tensor, positions: Tensor, examples: Sequence[TrainingExample]) -> dict[str, Any]:
        """Compute the loss of one batch from the token ids of all texts, and their positions in their own texts.

        Both have the shape (1, length). Returns the total ``loss``, and ``parts``, the unweighted losses by name.
        """
        layout, log_probs, row, end = self._run_model(ids, positions, examples)
        values: dict[str, list[Tensor]] = {term.name: [] for term in self.losses}
        for index, example in enumerate(examples):
            target = _target(example, ids.device)
            for term in self.losses:
                if term.loss.of == "tokens":
                    chosen = log_probs[slice(*layout.targets[index])]
                    ranks = torch.tensor(example.target_ranks, dtype=torch.float32, device=log_probs.device)
                    value = (term.loss.weights(ranks) * -chosen).mean()
                elif term.source == "logits":
                    scores = layout.document_scores(index, log_probs[slice(*layout.scores[index])])
                    value = cast(ListLoss, term.loss)(scores, target)
                else:
                    value = self.attention_loss(term, self._shares(row, index), example)
                values[term.name].append(value)
        means = {name: torch.stack(parts).mean() for name, parts in values.items()}
        loss = sum_weighted_losses(self.losses, means, [example.query for example in examples])
        if self.is_sharded:
            loss = loss + 0.0 * end
        return {"loss": loss, "parts": {name: value.detach() for name, value in means.items()}}

    def example_loss(self, example: TrainingExample, device: str) -> dict[str, Any]:
        batch = collate_examples([example])
        out: dict[str, Any] = self(**batch | {key: batch[key].to(device) for key in ("ids", "positions")})
        return out

    def _run_model(
        self, ids: Tensor, positions: Tensor, examples: Sequence[TrainingExample]
    ) -> tuple[_Layout, Tensor, PackedTrainingRow, Tensor]:
        """Run the model on a packed row, the concatenated texts of several examples.

        Also return the requested log-probabilities, the row with its recorded attention, and one logit of the last
        position, through which a sharded module runs the backward pass of all layers.
        """
        layout = _Layout(examples, self.losses, ids.device)
        row = PackedTrainingRow(texts=layout.texts, regions=layout.regions, heads=self._heads)
        out = self.model(
            input_ids=ids,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=layout.positions if len(layout.positions) else 1,
            **({"packing": row} if self._packs else {}),
        )
        log_probs = ids.new_zeros(0)
        if len(layout.positions):
            # log P(token | preceding tokens) of each requested token, in float32; logits: (positions, vocabulary)
            logits, (rows, tokens) = out.logits[0], layout.pairs
            normalisers = [chunk.float().logsumexp(dim=-1) for chunk in torch.split(logits, _CHUNK)]
            log_probs = logits[rows, tokens].float() - torch.cat(normalisers)[rows]
        return layout, log_probs, row, out.logits[0, -1, 0].float()

    def _shares(self, row: PackedTrainingRow, index: int) -> Tensor:
        return torch.cat([row.recorded[index, layer] for layer in self._heads])

    def attention_shares(self, ids: Tensor, positions: Tensor, examples: Sequence[TrainingExample]) -> list[Tensor]:
        _, _, row, _ = self._run_model(ids, positions, examples)
        return [self._shares(row, index) for index in range(len(examples))]

    def attention_loss(self, term: WeightedLoss, shares: Tensor, example: TrainingExample) -> Tensor:
        """Return the value of a loss on attention for one example, whose ``shares`` have shape (heads, documents)."""
        lengths = torch.tensor([max(1, end - start) for start, end in example.passages], device=shares.device)
        mixed = cast(AttentionScorer, self.readout)(shares, lengths.float())
        scores = mixed if term.source == "attention" else mixed.clamp(min=1e-9).log()
        return cast(ListLoss, term.loss)(scores, _target(example, shares.device))


def _target(example: TrainingExample, device: torch.device) -> ListTarget:
    return ListTarget(
        ranks=torch.tensor(example.ranks, dtype=torch.float32, device=device),
        scores=torch.tensor(example.scores, dtype=torch.float32, device=device),
    )


class _Layout:
    """Positions of texts, requested logits and attention regions in a packed row; ends are exclusive."""

    def __init__(
        self, examples: Sequence[TrainingExample], losses: Sequence[WeightedLoss], device: torch.device
    ) -> None:
        self._examples, self._device = examples, device
        self.texts: list[tuple[int, int]] = []  # start and end of each text
        self.targets: list[tuple[int, int]] = []  # start and end in `pairs` of the target tokens of each example
        self.scores: list[tuple[int, int]] = []  # start and end in `pairs` of the score terms of each example
        self.regions: list[AttentionRegion] = []
        sources = {"tokens" if term.loss.of == "tokens" else term.source for term in losses if term.loss.of != "texts"}
        pairs: list[tuple[int, int]] = []
        length = 0
        for example in examples:
            begin, first = length, len(self.texts)
            for text in example.texts:
                self.texts.append((length, length + len(text)))
                length += len(text)
            if "tokens" in sources:
                self.targets.append((len(pairs), len(pairs) + len(example.target)))
                pairs += [(begin + position, token) for position, token in example.target]
            if "logits" in sources:
                terms = [(begin + position, token) for document in example.terms for position, token, _ in document]
                self.scores.append((len(pairs), len(pairs) + len(terms)))
                pairs += terms
            if sources - {"tokens", "logits"}:
                documents = len(example.passages)
                owner = torch.full((len(example),), documents, dtype=torch.long)
                for document, (start, end) in enumerate(example.passages):
                    owner[start:end] = document
                rows = (begin + example.rows[0], begin + example.rows[1])
                self.regions.append(AttentionRegion(text=first, rows=rows, owner=owner.to(device), documents=documents))
        positions = sorted({position for position, _ in pairs})
        row = {position: index for index, position in enumerate(positions)}
        # The positions whose logits are computed, in ascending order; and the requested log-probabilities, shape (2,
        # requested): the first row has indices into these positions, the second row tokens.
        self.positions = torch.tensor(positions, dtype=torch.long, device=device)
        self.pairs = torch.tensor(
            [[row[position] for position, _ in pairs], [token for _, token in pairs]], dtype=torch.long, device=device
        )

    def document_scores(self, index: int, log_probs: Tensor) -> Tensor:
        """Return the scores of an example's documents: the sum of factor * log P(token) over the terms of each."""
        terms = self._examples[index].terms
        flat = [(factor, document) for document, parts in enumerate(terms) for _, _, factor in parts]
        factors = torch.tensor([factor for factor, _ in flat], device=self._device)
        owner = torch.tensor([document for _, document in flat], device=self._device)
        return log_probs.new_zeros(len(terms)).index_add(0, owner, factors * log_probs)


def collate_examples(examples: Sequence[TrainingExample]) -> dict[str, Any]:
    """Pack several examples into one row, and return the arguments of `ListwiseModule.forward`."""
    texts = [text for example in examples for text in example.texts]
    ids = [token for text in texts for token in text]
    positions = [position for text in texts for position in range(len(text))]
    return {"ids": torch.tensor([ids]), "positions": torch.tensor([positions]), "examples": list(examples)}


def autocast(device: str, dtype: str) -> torch.autocast:
    """Return the context of a computation in bfloat16; it has no effect for other data types."""
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def enable_activation_checkpointing(model: Any) -> None:
    """Enable activation checkpointing, which saves memory: the backward pass recomputes activations."""
    options = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(options)
    else:  # before transformers 5.24
        model.gradient_checkpointing_enable(options)


#: Number of steps, learning rate, and L2 penalty for fitting the head weights.
_STEPS, _RATE, _DECAY = 400, 0.05, 1e-3


@dataclass(frozen=True, kw_only=True)
class FirstBatches:
    """Calibration batches (`rerank.finetune.components.CalibrationBatches`): the first batches of a training."""

    places: ScheduledExamples  #: Examples in training order.
    size: int  #: Number of lists per batch.
    #: Function that combines a model with the losses of the recipe into a `ListwiseModule`.
    module: Callable[[Any], ListwiseModule]
    device: str
    dtype: str
    first_lr: float  #: Learning rate of the first optimizer step.
    count: int = 8  #: Maximum number of batches.

    def forward(self, model: Any, lists: int | None = None) -> None:
        module = self.module(model)
        with torch.no_grad():
            for batch in self._batches(lists):
                with autocast(self.device, self.dtype):
                    module(**batch)

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Add the gradient of the mean loss to ``.grad`` of all parameters except the head weights."""
        module, batches = self.module(model), self._batches(lists)
        for batch in batches:
            with autocast(self.device, self.dtype):
                loss = module(**batch)["loss"]
            (loss / len(batches)).backward()
        if module.readout is not None:
            module.readout.zero_grad()

    def fit(self, module: ListwiseModule) -> None:
        observed: list[Any] = []
        with torch.no_grad(), autocast(self.device, self.dtype):
            for batch in self._batches():
                observed += zip(module.attention_shares(**batch), batch["examples"], strict=True)
        fit_head_weights(module, observed)

    def _batches(self, lists: int | None = None) -> list[dict[str, Any]]:
        asked = self.count if lists is None else math.ceil(lists / self.size)
        starts = range(0, min(asked, max(1, len(self.places) // self.size)) * self.size, self.size)
        batches = [collate_examples([self.places[start + offset] for offset in range(self.size)]) for start in starts]
        return [
            {key: value.to(self.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            for batch in batches
        ]


def fit_head_weights(module: ListwiseModule, observed: Sequence[tuple[torch.Tensor, TrainingExample]]) -> None:
    """Fit the head weights and the length exponent by minimising the losses on attention, if there are any.

    ``observed`` has for each list the attention of the untrained model, shape (heads, documents), and the example.
    """
    readout = module.readout
    losses = [term for term in module.losses if term.loss.of == "scores" and term.source != "logits"]
    if readout is None or not losses:
        return
    learnt = readout.logits.requires_grad
    readout.requires_grad_(True)
    # The parameter is STEEPNESS times smaller than the logits of the softmax, so its learning rate is too.
    groups = [{"params": [readout.logits], "lr": _RATE / STEEPNESS}, {"params": [readout.power], "lr": _RATE}]
    optimizer = torch.optim.Adam(groups)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = _DECAY * (STEEPNESS * readout.logits).square().mean()
        for attention, example in observed:
            for term in losses:
                loss = loss + term.weight * module.attention_loss(term, attention, example) / len(observed)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    readout.requires_grad_(learnt)
