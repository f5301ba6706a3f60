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
# Hyperparameters. A table has one column per class of machine: GPUs of over 40 GB, of over 14 GB, smaller ones, Macs,
# and one core of a CPU. The class follows from the whole memory of a GPU, never from what is free: the exam builds the
# same model again.
#
# What choices are worth: gain in bpb on `tiny` in 8 s of one core that other programs used too, six seeds, paired, with
# the 95 % interval of the mean. One run differs from the next by 0.02 (standard deviation).
#   table of pairs: 2,048 rows, or none               +0.117 +- 0.016
#   one block, or two                                 +0.116 +- 0.027
#   table of pairs: 8,192 rows, or 2,048              +0.041 +- 0.018   left for a patch to find
#   4 rows a step, or 16                              +0.036 +- 0.016   likewise
#   momentum of 0.95 at once, or reached from 0.85    +0.022 +- 0.018   likewise; of longer budgets nothing is known
#   3 polynomials of orthogonalisation, or 5          +0.014 +- 0.021   no more than noise, and less to compute
#   no decay, or 0.1                                  +0.012 +- 0.027   noise
#   value embeddings, or none                         +0.007 +- 0.023   noise
#   gates on them, or none                            +0.007 +- 0.029   noise
#   embeddings learn at 0.1, or 0.2                   -0.008 +- 0.013   noise
# Not measured: the columns of GPUs and Macs, which are estimates, and windows, which rows of `tiny` are too short for.

def machine_class(device):
    if device.type != "cuda":
        return "mps" if device.type == "mps" else "cpu"
    gigabytes = torch.cuda.get_device_properties(device).total_memory / 1e9
    return "gpu80" if gigabytes > 40 else "gpu24" if gigabytes > 14 else "gpu8"

def pick(table, device):
    return table[machine_class(device)]

# Model
DEPTH           = dict(gpu80=8,      gpu24=6,      gpu8=4,      mps=4,     cpu=1)     # transformer blocks
WIDTH           = dict(gpu80=768,    gpu24=512,    gpu8=384,    mps=256,   cpu=128)   # of the residual stream
HEAD_DIM        = dict(gpu80=128,    gpu24=128,    gpu8=64,     mps=64,    cpu=64)    # width / head_dim heads
PAIRS           = dict(gpu80=65_536, gpu24=32_768, gpu8=16_384, mps=8_192, cpu=2_048) # rows of the table of pairs
MLP_RATIO       = 4         # hidden units of the MLP per unit of width
WINDOWS         = "SSSL"    # of the blocks, repeated; the last block is L always. L sees the whole row, S half of it,
LEAST_WINDOW    = 256       # but no less than so many tokens: rows of `tiny` are seen whole by all
ROPE_BASE       = 10_000    # longest wavelength of the rotary embedding, in tokens / 2 pi
LOGIT_CAP       = 15.0      # logits are squashed smoothly into +-15: keeps the loss sane at high learning rates
GATE_DIMS       = 32        # of the stream, that decide how much a value embedding counts

# Optimisation
STEP_TOKENS     = dict(gpu80=2**18,  gpu24=2**17,  gpu8=2**16,  mps=2**14, cpu=2**11) # of one optimiser step
PASS_TOKENS     = dict(gpu80=2**17,  gpu24=2**15,  gpu8=2**14,  mps=2**13, cpu=2**11) # of one forward pass, at most
MATRIX_DECAY    = dict(gpu80=0.1,    gpu24=0.1,    gpu8=0.1,    mps=0.0,   cpu=0.0)   # Muon's, falls with the budget
POLISH          = dict(gpu80=5,      gpu24=5,      gpu8=5,      mps=3,     cpu=3)     # steps of orthogonalisation
MATRIX_LR       = 0.02      # Muon: the matrices inside the blocks
EMBEDDING_LR    = 0.1       # AdamW: tables of tokens, pairs and values
HEAD_LR         = 0.005     # AdamW: the output matrix
SCALAR_LR       = 0.02      # AdamW: mixing scalars and gates
ADAM_BETAS      = (0.8, 0.95)
MOMENTUM        = 0.95      # of Muon, reached from
FIRST_MOMENTUM  = 0.85      # this one
MOMENTUM_WARMUP = 0.1       # over this share of the budget
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

def in_window(query, key, window):
    return (query >= key) & (query - key < window)

def attend(q, k, v, mask):
    """Causal attention by what the mask is: nothing (all that came before), a matrix, or FlexAttention's blocks."""
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if isinstance(mask, torch.Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    from torch.nn.attention.flex_attention import flex_attention  # takes a second to import, and only a GPU needs it

    return flex_attention(q, k, v, block_mask=mask)

class Attention(nn.Module):
    def __init__(self, width, head_dim, with_values):
        super().__init__()
        self.head_dim = head_dim
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate = nn.Linear(GATE_DIMS, width // head_dim, bias=False) if with_values else None

    def forward(self, x, rotary, values, mask):
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.q, self.k, self.v))
        if values is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_DIMS]))  # one number a head; 1 to begin with
            v = v + gate.unsqueeze(-1) * values.to(v.dtype).unflatten(-1, (-1, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        q, k = (rotate(norm(part), *rotary).to(v.dtype) for part in (q, k))  # FlexAttention wants one precision
        y = attend(q, k, v, mask)
        return self.out(y.transpose(1, 2).flatten(2))

class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())

class Block(nn.Module):
    def __init__(self, width, head_dim, with_values, window):
        super().__init__()
        self.attention = Attention(width, head_dim, with_values)
        self.mlp = MLP(width)
        self.mix = nn.Parameter(torch.tensor([1.0, 0.1]))  # how much of the stream, and of the first embedding, goes on
        self.window = window  # tokens, its own included; None: all that came before

    def forward(self, x, first, rotary, values, mask):
        x = self.mix[0] * x + self.mix[1] * first
        x = x + self.attention(norm(x), rotary, values, mask)
        return x + self.mlp(norm(x))

class GPT(nn.Module):
    def __init__(self, vocab_size, tokens, depth, width, head_dim, pairs, device):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.pairs = nn.Embedding(pairs, width)
        with_values = {i for i in range(depth) if i % 2 == (depth - 1) % 2}  # every other block, the last one included
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocab_size, width) for i in sorted(with_values)})
        short = max(LEAST_WINDOW, tokens // 2)
        windows = [short if WINDOWS[i % len(WINDOWS)] == "S" and i < depth - 1 else tokens for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, head_dim, i in with_values, window if window < tokens else None)
            for i, window in enumerate(windows))
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.rotary = rotary_table(tokens, head_dim, device)  # recomputed, not learned: no part of the weights
        self.precision = best_precision(device)
        self.block_masks = {}  # window -> FlexAttention's mask of a whole row; used in training, where there are any
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        self.embedding.weight.normal_(std=1.0)
        for table in (self.pairs, *self.values.values()):
            table.weight.zero_()
        for block in self.blocks:
            bound = math.sqrt(3 / block.attention.out.in_features)
            for layer in (block.attention.q, block.attention.k, block.attention.v, block.mlp.up):
                layer.weight.uniform_(-bound, bound)
            for layer in (block.attention.out, block.mlp.down, block.attention.gate):
                if layer is not None:
                    layer.weight.zero_()  # a block begins by adding nothing
        self.head.weight.zero_()  # and the first guess is uniform

    def forward(self, tokens):
        # Precision is the model's own affair, so that the exam computes as training did.
        with torch.autocast(tokens.device.type, self.precision, enabled=self.precision != torch.float32):
            return self.logits(tokens)

    def logits(self, tokens):
        masks = self.masks(tokens)
        rotary = tuple(table[: tokens.size(1)] for table in self.rotary)
        x = self.embedding(tokens) + self.pairs(self.pair_of(tokens))
        x = first = norm(x.to(self.precision))
        for i, block in enumerate(self.blocks):
            values = self.values[str(i)](tokens) if str(i) in self.values else None
            x = block(x, first, rotary, values, masks.get(block.window))
        logits = self.head(norm(x)).float()
        # A smooth cap without tanh, which costs a CPU 4 ms for 512 tokens; what this costs was not timed.
        return logits * torch.rsqrt(1 + (logits / LOGIT_CAP).square())

    def pair_of(self, tokens):
        """Which row of the table of pairs stands for a token after the one before it; many pairs share a row."""
        before = F.pad(tokens[:, :-1], (1, 0))
        return (tokens * 48_271 + before * 69_621) % self.pairs.num_embeddings

    def masks(self, tokens):
        """Window -> mask, for the windows shorter than these rows. A prefix gets what the whole row would give it."""
        if self.training and self.block_masks:
            return self.block_masks
        place = torch.arange(tokens.size(1), device=tokens.device)
        windows = {block.window for block in self.blocks if block.window is not None}
        return {w: in_window(place[:, None], place, w) for w in windows if w < tokens.size(1)}

    def flops_per_token(self, tokens):
        """Of training on rows of so many tokens: 6 for each weight of a matrix, and what attention takes."""
        matrices = [p for p in self.blocks.parameters() if p.ndim == 2]
        seen = sum(min(block.window or tokens, tokens) for block in self.blocks)
        return 6 * (sum(p.numel() for p in matrices) + self.head.weight.numel()) + 12 * self.head.in_features * seen

    def use_flex_attention(self, tokens):
        """From now on skip what lies outside a window. For compiled training on whole rows of so many tokens."""
        from torch.nn.attention.flex_attention import create_block_mask

        for window in {block.window for block in self.blocks if block.window is not None}:
            inside = lambda row, head, query, key, window=window: in_window(query, key, window)
            self.block_masks[window] = create_block_mask(inside, None, None, tokens, tokens, self.head.weight.device)

def best_precision(device):
    """bfloat16 where the hardware multiplies it: a CPU that does not is 12 times slower with it than with float32."""
    on_tensor_cores = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if on_tensor_cores else torch.float32

def build_model(config):
    device = config.device
    sizes = (pick(table, device) for table in (DEPTH, WIDTH, HEAD_DIM, PAIRS))
    with device:
        return GPT(config.vocab_size, config.sequence_len, *sizes, device)

# ---------------------------------------------------------------------------------------------------------------------
# Optimiser: Muon for matrices, AdamW for the rest

# Polar Express (Amsel and others, 2025): the best polynomial a x + b x^3 + c x^5 of each step, one after the other.
POLYNOMIALS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462), (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393), (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323))

def orthogonalise(matrices, steps):
    """Roughly the nearest orthogonal matrices. matrices: (n, rows, columns)."""
    wide = matrices.size(-2) <= matrices.size(-1)
    x = matrices if wide else matrices.mT
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    y = polish_bf16(x, steps) if x.is_cuda else polish(x, steps)
    return y if wide else y.mT

def polish_bf16(x, steps):
    x = x.bfloat16()
    for a, b, c in POLYNOMIALS[:steps]:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.float()

def polish(x, steps):
    """The same on the small square gram alone: half the multiplications for a matrix four times as wide as high. Needs
    float32: rounding that makes a square negative grows a thousandfold."""
    gram, total = x @ x.mT, None
    eye = torch.eye(gram.size(-1), device=x.device)
    for a, b, c in POLYNOMIALS[:steps]:
        factor = a * eye + b * gram + c * gram @ gram
        total = factor if total is None else factor @ total
        gram = factor @ gram @ factor
    return total @ x

class Muon:
    """Momentum, orthogonalised: every direction of a matrix learns at the same speed. Equal shapes go together."""

    def __init__(self, params, lr, decay, steps):
        by_shape = {}
        for p in params:
            by_shape.setdefault(p.shape, []).append(p)
        self.decay, self.steps = decay, steps
        self.groups = [
            dict(params=group, height=lr, lr=lr, momentum=MOMENTUM, velocity=torch.zeros_like(torch.stack(group)))
            for group in by_shape.values()]

    @torch.no_grad()
    def step(self, share):
        warm = min(1.0, share / MOMENTUM_WARMUP)
        for group in self.groups:
            group["momentum"] = FIRST_MOMENTUM + (MOMENTUM - FIRST_MOMENTUM) * warm
            grads = torch.stack([p.grad for p in group["params"]])
            velocity = group["velocity"].lerp_(grads, 1 - group["momentum"])
            update = orthogonalise(grads.lerp(velocity, group["momentum"]), self.steps)
            scale = max(1, grads.size(-2) / grads.size(-1)) ** 0.5
            if self.decay:
                decay = group["lr"] * self.decay * (1 - share)
                for p, u in zip(group["params"], update):
                    p.sub_(p * (p * u > 0), alpha=decay)  # only where the update shrinks the weight as well
            for p, u in zip(group["params"], update):
                p.add_(u, alpha=-group["lr"] * scale)

class AdamW:
    """The kernel behind torch.optim.AdamW(fused=True); torch.optim takes longer to import than an exam on a CPU."""

    def __init__(self, groups, betas):
        self.betas = betas
        self.groups = [dict(params=list(params), height=lr, lr=lr) for params, lr in groups]
        for group in self.groups:
            group["means"] = [torch.zeros_like(p) for p in group["params"]]
            group["squares"] = [torch.zeros_like(p) for p in group["params"]]
            group["steps"] = [torch.zeros((), device=p.device) for p in group["params"]]

    @torch.no_grad()
    def step(self, share):
        for group in self.groups:
            grads = [p.grad for p in group["params"]]
            for count in group["steps"]:
                count.add_(1)
            torch._fused_adamw_(
                group["params"], grads, group["means"], group["squares"], [], group["steps"], lr=group["lr"],
                beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=1e-10, amsgrad=False, maximize=False)

def build_optimisers(model, device):
    gates = [block.attention.gate.weight for block in model.blocks if block.attention.gate is not None]
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2 and not any(p is gate for gate in gates)]
    scalars = [p for p in model.blocks.parameters() if p.ndim < 2]
    tables = [*model.embedding.parameters(), *model.pairs.parameters(), *model.values.parameters()]
    groups = [(tables, EMBEDDING_LR), (model.head.parameters(), HEAD_LR), ([*scalars, *gates], SCALAR_LR)]
    return [AdamW(groups, ADAM_BETAS), Muon(matrices, MATRIX_LR, pick(MATRIX_DECAY, device), pick(POLISH, device))]

def learning_rate(share):
    """What part of its height a learning rate has when `share` of the budget is spent."""
    rise = min(1.0, (share + 1e-3) / WARMUP)
    fall = min(1.0, (1 - share) / WARMDOWN)
    return rise * (FINAL_LR + (1 - FINAL_LR) * fall)

# ---------------------------------------------------------------------------------------------------------------------
# Training

def is_short_of_memory(error):
    words = ("out of memory", "can't allocate memory")  # a Mac's, a CPU's
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)

class LossWatch:
    """Reads losses, and ends a run that has diverged. A GPU is never waited for: its losses are read when they have
    come, some steps late."""

    def __init__(self, device):
        self.is_late = device.type == "cuda"
        self.last, self.step, self.arrived = 0.0, 0, None
        self.slot = torch.zeros((), pin_memory=True) if self.is_late else None

    def see(self, loss, step):
        if not self.is_late:
            return self.check(float(loss), step)
        if self.arrived is not None and self.arrived.query():
            self.check(float(self.slot), self.step)
            self.arrived = None
        if self.arrived is None:
            self.slot.copy_(loss, non_blocking=True)
            self.step, self.arrived = step, torch.cuda.Event()
            self.arrived.record()
        return self.last

    def check(self, value, step):
        if not math.isfinite(value):
            raise RuntimeError(f"training diverged: the loss is {value} at step {step}; try lower learning rates")
        self.last = value
        return value

class Passes:
    """Forward and backward passes: compiled on a GPU, and as large as fits into memory.

    `rows` are those of one pass, `accumulate` passes make an optimiser step; their product stays what it was.
    """

    def __init__(self, model, session):
        self.model, self.session, self.device = model, session, session.device
        tokens = session.config.sequence_len
        rows = 2 ** int(math.log2(max(1, pick(STEP_TOKENS, self.device) // tokens)))
        most = min(session.max_rows, max(1, pick(PASS_TOKENS, self.device) // tokens))
        self.rows, self.accumulate = rows, 1
        while self.rows > most:
            self.halve()
        self.loss_of = self.plain_loss
        if self.device.type == "cuda":
            model.use_flex_attention(tokens)
            self.loss_of = torch.compile(self.plain_loss, dynamic=False)

    def halve(self):
        self.rows, self.accumulate = self.rows // 2, self.accumulate * 2

    def plain_loss(self, inputs, targets):
        return F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())

    def backward(self, batch):
        """Add the batch's part to the gradients; its part of the loss."""
        loss = self.loss_of(batch.inputs, batch.targets) / self.accumulate
        loss.backward()
        return loss.detach()

    def warm_up(self):
        """Compile, allocate, and find out what fits, on random tokens: the clock starts with the first real batch."""
        while (problem := self.attempt()) is not None:
            self.model.zero_grad(set_to_none=True)
            if is_short_of_memory(problem) and self.rows > 1:
                self.halve()
                print(f"short of memory: {self.rows} rows a pass, {self.accumulate} passes a step")
                torch.cuda.empty_cache()
            elif self.loss_of != self.plain_loss and not is_short_of_memory(problem):
                print(f"not compiled, {type(problem).__name__}: {str(problem)[:500]}")
                self.loss_of, self.model.block_masks = self.plain_loss, {}
            else:
                raise problem
        self.model.zero_grad(set_to_none=True)

    def attempt(self):
        """Two passes, the second with gradients there already; what went wrong, without the memory that it held."""
        try:
            for _ in range(2):
                self.backward(self.session.random_batch(self.rows))
        except Exception as error:
            return error.with_traceback(None)

def main(session):
    device = session.device
    model = build_model(session.config)
    session.flops_per_token = model.flops_per_token(session.config.sequence_len)  # for the use of a GPU (MFU)
    optimisers = build_optimisers(model, device)
    passes = Passes(model, session)
    if device.type != "cpu":  # there its time would be the budget's: the first batch warms up as well, and is learnt from
        passes.warm_up()
    watch = LossWatch(device)

    step, loss = 0, 0.0
    for number, batch in enumerate(session.batches(passes.rows), start=1):
        loss = loss + passes.backward(batch)
        if number % passes.accumulate:
            continue
        for optimiser in optimisers:
            for group in optimiser.groups:
                group["lr"] = group["height"] * learning_rate(batch.share)
            optimiser.step(batch.share)
        model.zero_grad(set_to_none=True)
        step += 1
        session.report(watch.see(loss, step))
        loss = 0.0
    return model

if __name__ == "__main__":
    import os
    import sys

    os.execv(sys.executable, [sys.executable, "-m", "trainer", "run", __file__, *sys.argv[1:]])
