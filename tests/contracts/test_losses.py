"""Properties that every loss must have. Runs over all registered losses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from rerank.finetune.component_registry import LOSSES
from rerank.selector import build_from_selector

torch = pytest.importorskip("torch")

from rerank.finetune.components import ListTarget  # noqa: E402

#: Documents per list and tokens per permutation: an identifier and a separator per document.
DOCUMENTS, TOKENS, VOCABULARY = 6, 12, 20
every = pytest.mark.parametrize("name", LOSSES.names())
list_losses = pytest.mark.parametrize("name", [name for name in LOSSES.names() if LOSSES.get(name).of == "scores"])
token_losses = pytest.mark.parametrize("name", [name for name in LOSSES.names() if LOSSES.get(name).of == "tokens"])


def label(documents: int = DOCUMENTS, *, seed: int = 0) -> ListTarget:
    """A random order with teacher scores that fall along it."""
    ranks = torch.randperm(documents, generator=torch.Generator().manual_seed(seed)).float() + 1
    return ListTarget(ranks=ranks, scores=2.0 - ranks / 2)


def random_scores(documents: int = DOCUMENTS, *, seed: int = 1) -> Any:
    return torch.randn(documents, generator=torch.Generator().manual_seed(seed))


def minimise(compute_loss: Any, parameter: Any, *, steps: int = 100) -> list[float]:
    """Return the loss before each of some AdamW steps on one parameter, and after the last one."""
    optimizer = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = compute_loss(parameter)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return [*losses, float(compute_loss(parameter).detach())]


@every
def test_it_is_a_described_frozen_dataclass(name: str) -> None:
    loss = LOSSES.get(name)
    assert is_dataclass(LOSSES.get(name))
    assert loss.__dataclass_params__.frozen
    assert all(field.kw_only for field in fields(loss))
    assert loss.of in ("tokens", "scores", "texts")
    assert loss.__doc__
    assert 0 < len(loss.summary) <= 90
    assert build_from_selector(LOSSES, name) == loss()


@list_losses
def test_a_list_loss_falls_and_the_first_document_of_the_label_wins(name: str) -> None:
    loss, target = LOSSES.get(name)(), label()
    scores = random_scores().requires_grad_()
    losses = minimise(lambda values: loss(values, target), scores)
    assert losses[-1] < 0.9 * losses[0]
    assert int(scores.argmax()) == int(target.ranks.argmin())


@list_losses
def test_a_list_loss_does_not_depend_on_the_order_of_documents(name: str) -> None:
    loss, target, scores = LOSSES.get(name)(), label(), random_scores()
    order = torch.randperm(DOCUMENTS, generator=torch.Generator().manual_seed(2))
    permuted = ListTarget(ranks=target.ranks[order], scores=target.scores[order])
    assert float(loss(scores[order], permuted)) == pytest.approx(float(loss(scores, target)), rel=1e-5)


@list_losses
def test_a_list_loss_is_smaller_for_the_labelled_order_than_for_its_reverse(name: str) -> None:
    loss, target = LOSSES.get(name)(), label()
    assert float(loss(target.scores, target)) < float(loss(-target.scores, target))


@list_losses
@pytest.mark.parametrize("documents", [1, 2, 50])
def test_a_list_loss_and_its_gradient_are_finite(name: str, documents: int) -> None:
    loss, target = LOSSES.get(name)(), label(documents)
    for scores in (random_scores(documents), torch.zeros(documents), 100 * random_scores(documents)):
        scores.requires_grad_()
        value = loss(scores, target)
        value.backward()
        assert value.shape == ()
        assert torch.isfinite(value)
        assert torch.isfinite(scores.grad).all()


def token_ranks() -> Any:
    """Rank of the identifier of each token; every other token is a separator."""
    ranks = torch.zeros(TOKENS)
    ranks[::2] = torch.arange(1, DOCUMENTS + 1).float()
    return ranks


@token_losses
def test_a_token_loss_falls_and_the_heaviest_token_becomes_likely(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    logits = torch.randn(TOKENS, VOCABULARY, generator=generator).requires_grad_()
    weights = LOSSES.get(name)().weights(token_ranks())

    def compute_loss(values: Any) -> Any:
        # L = (1/T) sum_i w_i (-log P(y_i)), as `TokenLoss.weights` defines it.
        return (weights * -values.log_softmax(dim=1)[torch.arange(TOKENS), tokens]).mean()

    losses = minimise(compute_loss, logits)
    assert losses[-1] < 0.2 * losses[0]
    assert int(logits[0].argmax()) == int(tokens[0])


@token_losses
def test_token_weights_are_finite_and_never_grow_with_the_rank(name: str) -> None:
    weights = LOSSES.get(name)().weights(token_ranks())
    identifiers = weights[::2].tolist()
    assert weights.shape == (TOKENS,)
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert identifiers[0] > 0
    assert identifiers == sorted(identifiers, reverse=True)
