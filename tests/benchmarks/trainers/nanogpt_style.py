"""
A GPT in the manner of 2023: LayerNorm, GELU, learned positions, tied embedding, AdamW, warm-up and cosine.

What our `train.py` is compared with. Written for the benchmark from the published recipe (GPT-2's block; AdamW with
betas 0.9 and 0.95, weight decay 0.1 on matrices, gradients clipped at 1); same harness, same tokens. The learning rate
falls with the share of the budget, where the original counts steps. Sizes are constants: the benchmark tries several.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

LAYERS = 2
WIDTH = 128
HEAD_DIM = 64
ROWS = 4  # of an optimiser step
LEARNING_RATE = 4e-3  # its height; the original's 6e-4 is for a model a hundred times as wide and deep
FINAL_LR = 0.1  # of that height, as in the original
WARMUP = 0.02  # share of the budget
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.95)
CLIP = 1.0  # norm of all gradients together


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        rows, tokens, width = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, -1, HEAD_DIM).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(rows, tokens, width))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH, bias=False), Attention()
        self.norm2 = nn.LayerNorm(WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, vocab_size, tokens):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.positions = nn.Embedding(tokens, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, tokens):
        x = self.embedding(tokens) + self.positions.weight[: tokens.size(1)]
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


class AdamW:
    """As in `trainer/train.py`, so that no rival pays for importing torch.optim."""

    def __init__(self, params):
        self.params, self.steps = list(params), 0
        self.means = [torch.zeros_like(p) for p in self.params]
        self.squares = [torch.zeros_like(p) for p in self.params]

    @torch.no_grad()
    def step(self, lr):
        self.steps += 1
        rise = [1 - beta**self.steps for beta in BETAS]
        grads = [p.grad for p in self.params]
        size = torch.stack([g.norm() for g in grads]).norm()
        torch._foreach_mul_(grads, (CLIP / (size + 1e-6)).clamp(max=1.0))
        for p, mean, square in zip(self.params, self.means, self.squares, strict=True):
            mean.lerp_(p.grad, 1 - BETAS[0])
            square.lerp_(p.grad.square(), 1 - BETAS[1])
            p.mul_(1 - lr * (WEIGHT_DECAY if p.ndim == 2 else 0.0))
            p.addcdiv_(mean, (square / rise[1]).sqrt_().add_(1e-8), value=-lr / rise[0])


def build_model(config):
    with config.device:
        return GPT(config.vocab_size, config.sequence_len)


def learning_rate(share):
    if share < WARMUP:
        return LEARNING_RATE * (share + 1e-3) / WARMUP
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (share - WARMUP) / (1 - WARMUP))))
    return LEARNING_RATE * (FINAL_LR + (1 - FINAL_LR) * fall)


def main(session):
    model = build_model(session.config)
    optimiser = AdamW(model.parameters())

    def loss_of(batch):
        return F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())

    for batch in session.batches(ROWS):
        loss = loss_of(batch)
        loss.backward()
        optimiser.step(learning_rate(batch.share))
        model.zero_grad(set_to_none=True)
        session.report(float(loss))
    return model
