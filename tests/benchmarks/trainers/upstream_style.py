"""
A GPT in the manner of upstream's autoresearch of early 2026: Muon, value embeddings, ReLU², QK norm, capped logits.

What our `train.py` is compared with. Written for the benchmark from what is published of that recipe: rotary places,
gated value embeddings in every other block, mixing of the first embedding into each block, windows SSSL, tanh cap 15,
Muon with five polynomials and cautious weight decay that falls with the budget, AdamW (0.8, 0.95) with rates scaled by
the width, the last half of the budget to warm down. In float32, the faster precision on a CPU that does not multiply
bfloat16. Same harness, same tokens. Sizes are constants: the benchmark tries several.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

LAYERS = 1
WIDTH = 128
HEAD_DIM = 64
ROWS = 4  # of an optimiser step
RATE = 1.0  # multiplies every learning rate: what is tuned
EMBEDDING_LR = 0.3
HEAD_LR = 0.004
MATRIX_LR = 0.03
SCALAR_LR = 0.02
BETAS = (0.8, 0.95)
MOMENTUM = 0.95
DECAY = 0.1
WARMDOWN = 0.5
CAP = 15.0
GATE_DIMS = 32
COMPILE = False  # on a GPU; the benchmark sets it
POLYNOMIALS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, with_values, window):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate = nn.Linear(GATE_DIMS, WIDTH // HEAD_DIM, bias=False) if with_values else None
        self.window = window

    def forward(self, x, rotary, values):
        q, k, v = (layer(x).unflatten(-1, (-1, HEAD_DIM)) for layer in (self.q, self.k, self.v))
        if values is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_DIMS]))
            v = v + gate.unsqueeze(-1) * values.unflatten(-1, (-1, HEAD_DIM))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = (rotate(norm(part), *rotary) for part in (q, k))
        tokens = x.size(1)
        if self.window >= tokens:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            place = torch.arange(tokens, device=x.device)
            back = place[:, None] - place
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=(back >= 0) & (back < self.window))
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, with_values, window):
        super().__init__()
        self.attention = Attention(with_values, window)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.mix = nn.Parameter(torch.tensor([1.0, 0.1]))

    def forward(self, x, first, rotary, values):
        x = self.mix[0] * x + self.mix[1] * first
        x = x + self.attention(norm(x), rotary, values)
        return x + self.down(F.relu(self.up(norm(x))).square())


class GPT(nn.Module):
    def __init__(self, vocab_size, tokens, device):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        with_values = [i for i in range(LAYERS) if i % 2 == (LAYERS - 1) % 2]
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocab_size, WIDTH) for i in with_values})
        # Upstream halves the window of S; rows of `tiny` are so short that it gains no time, and costs a mask.
        windows = [tokens // 2 if tokens > 512 and i % 4 != 3 and i < LAYERS - 1 else tokens for i in range(LAYERS)]
        self.blocks = nn.ModuleList(Block(i in with_values, windows[i]) for i in range(LAYERS))
        self.head = nn.Linear(WIDTH, vocab_size, bias=False)
        frequency = 10_000 ** -(torch.arange(0, HEAD_DIM, 2, device=device) / HEAD_DIM)
        angle = torch.outer(torch.arange(tokens, device=device, dtype=torch.float32), frequency)
        self.rotary = angle.cos(), angle.sin()
        bound = math.sqrt(3 / WIDTH)
        with torch.no_grad():
            self.embedding.weight.normal_()
            self.head.weight.normal_(std=0.001)
            for table in self.values.values():
                table.weight.uniform_(-bound, bound)
            for block in self.blocks:
                for layer in (block.attention.q, block.attention.k, block.attention.v, block.up):
                    layer.weight.uniform_(-bound, bound)
                block.attention.out.weight.zero_()
                block.down.weight.zero_()
                if block.attention.gate is not None:
                    block.attention.gate.weight.zero_()

    def forward(self, tokens):
        half = tokens.is_cuda
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=half):
            rotary = tuple(table[: tokens.size(1)] for table in self.rotary)
            x = self.embedding(tokens)
            x = first = norm(x.bfloat16() if half else x)
            for i, block in enumerate(self.blocks):
                values = self.values[str(i)](tokens).to(x.dtype) if str(i) in self.values else None
                x = block(x, first, rotary, values)
            return CAP * torch.tanh(self.head(norm(x)).float() / CAP)


def orthogonalise(x):
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x.bfloat16() if x.is_cuda else x
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Optimiser:
    def __init__(self, model):
        scale = RATE * math.sqrt(768 / WIDTH)
        gates = {id(block.attention.gate.weight) for block in model.blocks if block.attention.gate is not None}
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and id(p) not in gates]
        small = [p for p in model.blocks.parameters() if p.ndim < 2 or id(p) in gates]
        self.adam = [(p, EMBEDDING_LR * scale) for p in (*model.embedding.parameters(), *model.values.parameters())]
        self.adam += [(p, HEAD_LR * scale) for p in model.head.parameters()]
        self.adam += [(p, SCALAR_LR * RATE) for p in small]
        self.means, self.squares = ([torch.zeros_like(p) for p, _ in self.adam] for _ in range(2))
        self.counts = [torch.zeros((), device=p.device) for p, _ in self.adam]
        by_shape = {}
        for p in matrices:
            by_shape.setdefault(p.shape, []).append(p)
        self.muon = [(group, torch.zeros_like(torch.stack(group))) for group in by_shape.values()]

    @torch.no_grad()
    def step(self, share):
        height = min(1.0, (1 - share) / WARMDOWN)
        for (p, lr), mean, square, count in zip(self.adam, self.means, self.squares, self.counts, strict=True):
            count.add_(1)
            torch._fused_adamw_(
                [p],
                [p.grad],
                [mean],
                [square],
                [],
                [count],
                lr=lr * height,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=0.0,
                eps=1e-10,
                amsgrad=False,
                maximize=False,
            )
        for group, velocity in self.muon:
            grads = torch.stack([p.grad for p in group])
            velocity.lerp_(grads, 1 - MOMENTUM)
            update = orthogonalise(grads.lerp(velocity, MOMENTUM)) * max(1, grads.size(-2) / grads.size(-1)) ** 0.5
            lr = MATRIX_LR * RATE * height
            for p, u in zip(group, update, strict=True):
                p.sub_(lr * (u + DECAY * (1 - share) * p * (u * p >= 0)))


def build_model(config):
    with config.device:
        return GPT(config.vocab_size, config.sequence_len, config.device)


def main(session):
    model = build_model(session.config)
    optimiser = Optimiser(model)

    def plain_loss(inputs, targets):
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    loss_of = torch.compile(plain_loss, dynamic=False) if COMPILE else plain_loss
    for _ in range(2 if COMPILE else 0):  # compiling comes before the clock, as ours does
        batch = session.random_batch(ROWS)
        loss_of(batch.inputs, batch.targets).backward()
    model.zero_grad(set_to_none=True)
    for step, batch in enumerate(session.batches(ROWS), start=1):
        loss = loss_of(batch.inputs, batch.targets)
        loss.backward()
        optimiser.step(batch.share)
        model.zero_grad(set_to_none=True)
        if session.device.type == "cpu" or step % 20 == 0:
            session.report(float(loss.detach()))
    return model
