"""Small random batches, and architectures that between them take every path of the engine."""

import torch

import prefix_interp as pi
from prefix_interp.prefixes.baselines import masked_hooks
from prefix_interp.tasks import Batch
from tests.helpers import raw_model, tokens_for

N, POS = 2, 4  # slots and content positions of `made`
LINEAR = dict(attn_only=True, normalization_type=None)

ARCHITECTURES = {
    "plain": {},
    "rotary-grouped": dict(
        positional_embedding_type="rotary", rotary_dim=4, n_key_value_heads=1, clip_qkv=1.0
    ),
    "ungrouped": dict(n_key_value_heads=1, ungroup_grouped_query_attention=True),
    "parallel": dict(parallel_attn_mlp=True, use_split_qkv_input=True),
    "attention-only": dict(attn_only=True, normalization_type=None, use_attn_result=True),
    "bidirectional": dict(attention_dir="bidirectional"),
    "normed-twice": dict(
        normalization_type="RMS", use_normalization_before_and_after=True, use_qk_norm=True,
        attn_scores_soft_cap=3.0,
    ),
}  # fmt: skip


def batch_for(model, n=2, length=5, n_out=2, seed=0):
    """Return a batch of random tokens with random answers."""
    tokens, answers = tokens_for(model, n, length, seed), tokens_for(model, n, n_out, seed + 77)
    return Batch(tokens, answers, torch.zeros(n, dtype=torch.long))


def log_prob(logits, batch):
    """Return the mean log-probability of the answers of each example, with a loop."""
    n_out = batch.answers.shape[1]
    rows = []
    for example, answers in zip(logits[:, -n_out:], batch.answers, strict=True):
        logs = [row[a] - row.exp().sum().log() for row, a in zip(example, answers, strict=True)]
        rows.append(sum(logs) / n_out)
    return torch.stack(rows)


def made(n_layers=2, gain=1.0, std=1.0, seed=1, **settings):
    """Return a random model, a prefix of two slots and a batch."""
    model = raw_model(seed, gain=gain, n_layers=n_layers, **settings)
    prefix = pi.Prefix.random(model, N, 2, "kv", std=std)
    return model, prefix, batch_for(model, length=POS)


def slots_run(model, prefix, batch, base, hooks):
    """Return the answers' log-probabilities, the prefix standing in slots."""
    with torch.no_grad():
        if base == "off":
            hooks = [*masked_hooks(model, N), *hooks]
            return log_prob(model.run_with_hooks(batch.tokens, fwd_hooks=hooks), batch)
        with pi.attach(model, prefix):
            return log_prob(model.run_with_hooks(batch.tokens, fwd_hooks=hooks), batch)
