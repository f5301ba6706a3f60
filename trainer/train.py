"""
Pretrains a small GPT for a fixed budget of time. The one file a patch may edit.

    python -m trainer run train.py          one trial: train for the budget, then an exam -> val_bpb (lower is better)

What the harness needs from this file is two names:

    build_model(config)   an untrained model: (rows, tokens) int64 -> (rows, tokens, vocab) logits. The exam calls it
                          too, and loads the trained weights into what it returns, so everything the model needs must
                          be in its parameters, its buffers, or the constants below.
    main(session)         trains and returns the model. `session.batches()` ends when the budget is spent.

Everything else is fair game: architecture, optimiser, schedules, batch size, precision. The harness keeps the clock,
serves the tokens and computes the score.
"""

# The formatter stays off: the constants are a table, aligned by hand.
# fmt: off

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

# ---------------------------------------------------------------------------------------------------------------------
# Hyperparameters. One column per kind of device: a home GPU, a Mac, one core of a CPU.

def pick(device, cuda, mps, cpu):
    return {"cuda": cuda, "mps": mps}.get(device.type, cpu)

# Model
DEPTH           = dict(cuda=8,    mps=4,    cpu=2)      # transformer blocks
WIDTH           = dict(cuda=512,  mps=256,  cpu=128)    # of the residual stream
HEAD_DIM        = dict(cuda=128,  mps=64,   cpu=64)     # width / head_dim attention heads
MLP_RATIO       = 4         # hidden units of the MLP per unit of width
ROPE_BASE       = 10_000    # longest wavelength of the rotary embedding, in tokens / 2 pi
LOGIT_CAP       = 15.0      # logits are squashed smoothly into +-15: keeps the loss sane at high learning rates
VALUE_EMBEDDING = dict(cuda=True, mps=True, cpu=False)  # every other block adds a per-token table to its values

# Optimisation
ROWS            = dict(cuda=64,   mps=32,   cpu=16)     # rows of one forward pass
ACCUMULATE      = dict(cuda=1,    mps=1,    cpu=1)      # forward passes per optimiser step
MATRIX_LR       = 0.02      # Muon: the matrices inside the blocks
EMBEDDING_LR    = 0.1       # AdamW: token and value embeddings. CPU, 10 s: 0.02 costs 0.03 bpb
HEAD_LR         = 0.005     # AdamW: the output matrix. CPU, 10 s: 0.002 costs 0.1 bpb, 0.015 costs 0.01
SCALAR_LR       = 0.02      # AdamW: per-block mixing scalars
ADAM_BETAS      = (0.8, 0.95)
WEIGHT_DECAY    = 0.0
MOMENTUM        = 0.95      # of Muon
WARMUP          = 0.02      # share of the budget over which learning rates rise
WARMDOWN        = 0.5       # share of the budget over which they fall to
FINAL_LR        = 0.05      # this fraction of their height

# ---------------------------------------------------------------------------------------------------------------------
# Model

def norm(x):
    return F.rms_norm(x, (x.size(-1),))

def rotary_table(tokens, head_dim, device):
    frequency = ROPE_BASE ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(tokens, device=device, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()

def rotate(x, cos, sin):
    """x: (rows, heads, tokens, head_dim). The two halves of a head are the pairs that turn."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)

class Attention(nn.Module):
    def __init__(self, width, head_dim):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x, rotary, extra_values):
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        if extra_values is not None:
            v = v + extra_values.view(rows, tokens, -1, self.head_dim).transpose(1, 2).to(v.dtype)
        q, k = (rotate(norm(part), *rotary).to(v.dtype) for part in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(rows, tokens, width))

class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())

class Block(nn.Module):
    def __init__(self, width, head_dim):
        super().__init__()
        self.attention = Attention(width, head_dim)
        self.mlp = MLP(width)
        self.mix = nn.Parameter(torch.tensor([1.0, 0.1]))  # how much of the stream, and of the first embedding, goes on

    def forward(self, x, first, rotary, extra_values):
        x = self.mix[0] * x + self.mix[1] * first
        x = x + self.attention(norm(x), rotary, extra_values)
        return x + self.mlp(norm(x))

class GPT(nn.Module):
    def __init__(self, vocab_size, tokens, depth, width, head_dim, value_embedding, device):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        with_values = [i for i in range(depth) if value_embedding and i % 2 == (depth - 1) % 2]  # the last one has it
        self.value_embeddings = nn.ModuleDict({str(i): nn.Embedding(vocab_size, width) for i in with_values})
        self.blocks = nn.ModuleList(Block(width, head_dim) for _ in range(depth))
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.rotary = rotary_table(tokens, head_dim, device)  # recomputed, not learned: no part of the weights
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        self.embedding.weight.normal_(std=1.0)
        for table in self.value_embeddings.values():
            table.weight.zero_()
        for block in self.blocks:
            bound = math.sqrt(3 / block.attention.out.in_features)
            block.attention.qkv.weight.uniform_(-bound, bound)
            block.mlp.up.weight.uniform_(-bound, bound)
            block.attention.out.weight.zero_()  # a block begins by adding nothing
            block.mlp.down.weight.zero_()
        self.head.weight.zero_()  # and the first guess is uniform

    def forward(self, tokens):
        rotary = tuple(table[: tokens.size(1)] for table in self.rotary)
        x = first = norm(self.embedding(tokens))
        for i, block in enumerate(self.blocks):
            table = self.value_embeddings[str(i)] if str(i) in self.value_embeddings else None
            x = block(x, first, rotary, table(tokens) if table is not None else None)
        logits = self.head(norm(x)).float()
        return LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)

def build_model(config):
    device = config.device
    with device:
        return GPT(
            config.vocab_size, config.sequence_len, pick(device, **DEPTH), pick(device, **WIDTH),
            pick(device, **HEAD_DIM), pick(device, **VALUE_EMBEDDING), device)

# ---------------------------------------------------------------------------------------------------------------------
# Optimiser: Muon for matrices, AdamW for the rest

def orthogonalise(matrices, steps=5):
    """Roughly the nearest orthogonal matrices: a quintic Newton-Schulz iteration. matrices: (n, rows, columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)

class Muon:
    """Momentum, orthogonalised: every direction of a matrix learns at the same speed. Equal shapes go together."""

    def __init__(self, params, lr, momentum):
        by_shape = {}
        for p in params:
            by_shape.setdefault(p.shape, []).append(p)
        self.groups = [
            dict(params=group, height=lr, lr=lr, momentum=momentum, velocity=torch.zeros_like(torch.stack(group)))
            for group in by_shape.values()]

    @torch.no_grad()
    def step(self):
        for group in self.groups:
            grads = torch.stack([p.grad for p in group["params"]])
            velocity = group["velocity"].lerp_(grads, 1 - group["momentum"])
            update = orthogonalise(grads.lerp(velocity, group["momentum"]))
            scale = max(1, grads.size(-2) / grads.size(-1)) ** 0.5
            for p, u in zip(group["params"], update):
                p.add_(u, alpha=-group["lr"] * scale)

class AdamW:
    """Written out, because torch.optim takes longer to import than a whole exam on a CPU."""

    def __init__(self, groups, betas, weight_decay):
        self.betas, self.weight_decay, self.steps = betas, weight_decay, 0
        self.groups = [dict(params=list(params), height=lr, lr=lr) for params, lr in groups]
        for group in self.groups:
            group["means"] = [torch.zeros_like(p) for p in group["params"]]
            group["squares"] = [torch.zeros_like(p) for p in group["params"]]

    @torch.no_grad()
    def step(self):
        self.steps += 1
        rise = [1 - beta**self.steps for beta in self.betas]  # how much of their final size the averages have by now
        for group in self.groups:
            for p, mean, square in zip(group["params"], group["means"], group["squares"]):
                mean.lerp_(p.grad, 1 - self.betas[0])
                square.lerp_(p.grad.square(), 1 - self.betas[1])
                p.mul_(1 - group["lr"] * self.weight_decay)
                p.addcdiv_(mean, (square / rise[1]).sqrt_().add_(1e-10), value=-group["lr"] / rise[0])

def build_optimisers(model):
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    scalars = [p for p in model.blocks.parameters() if p.ndim < 2]
    embeddings = [*model.embedding.parameters(), *model.value_embeddings.parameters()]
    tables = [(embeddings, EMBEDDING_LR), (model.head.parameters(), HEAD_LR), (scalars, SCALAR_LR)]
    return [AdamW(tables, ADAM_BETAS, WEIGHT_DECAY), Muon(matrices, lr=MATRIX_LR, momentum=MOMENTUM)]

def learning_rate(share):
    """What part of its height a learning rate has when `share` of the budget is spent."""
    rise = min(1.0, (share + 1e-3) / WARMUP)
    fall = min(1.0, (1 - share) / WARMDOWN)
    return rise * (FINAL_LR + (1 - FINAL_LR) * fall)

# ---------------------------------------------------------------------------------------------------------------------
# Training

def main(session):
    device = session.device
    torch.set_float32_matmul_precision("high")
    model = build_model(session.config)
    optimisers = build_optimisers(model)
    forward = torch.compile(model, dynamic=False) if device.type == "cuda" else model
    precision = torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu")
    rows, accumulate = pick(device, **ROWS), pick(device, **ACCUMULATE)

    def backward(batch):
        with precision:
            logits = forward(batch.inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        (loss / accumulate).backward()
        return loss.detach()

    # The clock starts with the first real batch: compile, allocate and warm up on random tokens before.
    for _ in range(2):
        backward(session.random_batch(rows))
    model.zero_grad(set_to_none=True)

    step, passes, loss = 0, 0, 0.0
    for batch in session.batches(rows):
        loss = loss + backward(batch) / accumulate
        passes += 1
        if passes % accumulate:
            continue
        for optimiser in optimisers:
            for group in optimiser.groups:
                group["lr"] = group["height"] * learning_rate(batch.share)
            optimiser.step()
        model.zero_grad(set_to_none=True)
        step += 1
        if device.type == "cpu" or step % 10 == 0:  # reading a loss makes a GPU wait
            value = float(loss)
            if not math.isfinite(value):
                raise RuntimeError(f"the loss is {value} at step {step}")
            session.report(value)
        loss = 0.0
    return model

if __name__ == "__main__":
    import os
    import sys

    os.execv(sys.executable, [sys.executable, "-m", "trainer", "run", __file__, *sys.argv[1:]])
