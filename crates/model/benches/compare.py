"""The parts of the full-size model beside the same arithmetic in PyTorch, at a small size: first that both give the same
numbers from the same files, then their times, in turns.

    cargo bench -p gallop-model --bench public --no-run     # prints the path of the binary
    python crates/model/benches/compare.py BINARY FOLDER [--rounds 3] [--out benches/DATE-CPU.md] [--note TEXT]

FOLDER is made, with random weights in the public layout, unless it is there. Each round times every part once with
each, so that other load on the machine meets all alike; the table has medians. The layers are written here as plainly
as PyTorch allows, from the description of the architecture.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

THREADS = 2
# What takes PyTorch more seconds of processors than this is timed once.
LONG = 8.0
# Latent frames that the exact video decoder is given.
EXACT = 3


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


# Transformer: tokens [L, D], three sets of weights in the outer layers


class Transformer:
    def __init__(self, folder, inputs):
        self.weights = load_file(f"{folder}/base/model-00001-of-00001.safetensors")
        from safetensors import safe_open

        with safe_open(f"{folder}/base/model-00001-of-00001.safetensors", "pt") as file:
            (about,) = file.metadata().values()
        self.config = json.loads(about)
        video, audio, text = inputs["video"], inputs["audio"], inputs["text"]
        f, h, w, c = video.shape
        self.grid = (f, h // 2, w // 2, c)
        patches = video.permute(3, 0, 1, 2).reshape(c, f, h // 2, 2, w // 2, 2)
        self.inputs = [patches.permute(1, 2, 4, 0, 3, 5).reshape(-1, 4 * c), audio, text]
        self.rows = [len(x) for x in self.inputs]
        self.sin, self.cos = self.angles()

    def angles(self):
        nv, na, nt = self.rows
        f, h, w, _ = self.grid

        def places(t, h, w, ref, offset=0):
            at = torch.meshgrid(torch.arange(t) + offset, torch.arange(h), torch.arange(w), indexing="ij")
            at = torch.stack(at, -1).reshape(-1, 3).float()
            size, ref = torch.tensor([t, h, w]).float(), torch.tensor(ref).float()
            scale = torch.where((ref == 1) & (size == 1), torch.ones(3), (ref - 1) / (size - 1))
            middle = (size - 1) / 2
            middle[0] = 0
            return (at - middle) * scale

        at = [
            places(f, h, w, [f, h, w]),
            places(na, 1, 1, [(na - 1) // 4 + 1, 1, 1]),
            # A reference of 1 makes the scale of a text's time 0.
            places(nt, 1, 1, [1, 1, 1], -nt),
        ]
        bands = 10000.0 ** (-torch.arange(self.config["head_dim"] // 8).float() / (self.config["head_dim"] // 8))
        angles = (torch.cat(at)[:, :, None] * bands).reshape(sum(self.rows), -1)
        return angles.sin()[:, None], angles.cos()[:, None]

    def to(self, dtype):
        self.typed = {k: v.to(dtype) if v.dim() == 2 and k.startswith("block") else v for k, v in self.weights.items()}
        self.dtype = dtype
        return self

    def groups(self, x, w, kind, f):
        if not kind["per_modality"]:
            return f(x, w)
        return torch.cat([f(x, w) for x, w in zip(x.split(self.rows), w.chunk(3))])

    def norm(self, x, w, kind):
        return self.groups(x, w, kind, lambda x, w: F.rms_norm(x, x.shape[-1:], eps=1e-6) * (w + 1))

    def linear(self, x, w, kind):
        return self.groups(x.to(self.dtype), w, kind, F.linear).float()

    def turn(self, x):
        half = self.sin.shape[-1]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin, rest], -1)

    def attention(self, x, w, kind):
        c = self.config
        k, nq, nk = c["head_dim"], c["num_heads_q"], c["num_heads_kv"]
        qkv = self.linear(self.norm(x, w["attention.pre_norm.weight"], kind), w["attention.linear_qkv.weight"], kind)
        q, key, v, gate = qkv.split([nq * k, nk * k, nk * k, nq], -1)
        q = self.turn(self.norm(q.reshape(-1, nq, k), w["attention.q_norm.weight"], kind))
        key = self.turn(self.norm(key.reshape(-1, nk, k), w["attention.k_norm.weight"], kind))
        q, key, v = (y.to(self.dtype).transpose(0, 1)[None] for y in (q, key, v.reshape(-1, nk, k)))
        y = F.scaled_dot_product_attention(q, key, v, enable_gqa=True)[0].transpose(0, 1).float()
        y = (y * gate.sigmoid()[:, :, None]).flatten(1)
        return self.linear(y, w["attention.linear_proj.weight"], kind)

    def mlp(self, x, w, kind):
        y = self.linear(self.norm(x, w["mlp.pre_norm.weight"], kind), w["mlp.up_gate_proj.weight"], kind)
        if kind["mlp"] == "gelu7":
            y = y.clamp(max=7)
            y = y * torch.sigmoid(1.702 * y)
        else:
            gate, up = y[:, ::2].clamp(max=7), y[:, 1::2].clamp(-7, 7)
            y = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        return self.linear(y, w["mlp.down_proj.weight"], kind)

    def __call__(self):
        w = self.typed
        names = ["video", "audio", "text"]
        x = [F.linear(x, w[f"adapter.{n}_embedder.weight"], w[f"adapter.{n}_embedder.bias"]) for n, x in zip(names, self.inputs)]
        x = torch.cat(x)
        for i, kind in enumerate(self.config["layers"]):
            prefix = f"block.layers.{i}."
            layer = {k[len(prefix) :]: v for k, v in w.items() if k.startswith(prefix)}
            x = x + self.attention(x, layer, kind)
            x = x + self.mlp(x, layer, kind)
        out = {}
        for name, y in zip(names[:2], x.split(self.rows)):
            y = F.rms_norm(y, y.shape[-1:], eps=1e-6) * (w[f"final_norm_{name}.weight"] + 1)
            out[name] = F.linear(y, w[f"final_linear_{name}.weight"])
        f, h, w, c = self.grid
        video = out["video"].reshape(f, h, w, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(f, 2 * h, 2 * w, c)
        return {" video": video, " audio": out["audio"]}


# Text encoder: tokens [L, D]


class TextEncoder:
    def __init__(self, folder, inputs):
        self.config = json.load(open(f"{folder}/t5gemma-9b-9b-ul2/config.json"))["encoder"]
        weights = load_file(f"{folder}/t5gemma-9b-9b-ul2/model-00001-of-00001.safetensors")
        self.weights = {k.removeprefix("model.encoder."): v for k, v in weights.items()}
        self.ids = inputs["ids"].long()

    def to(self, dtype):
        self.typed = {k: v.to(dtype if v.dim() == 2 else torch.float32) for k, v in self.weights.items()}
        self.dtype = dtype
        return self

    def __call__(self):
        c, w, eps = self.config, self.typed, self.config["rms_norm_eps"]
        k = c["head_dim"]
        norm = lambda x, name: F.rms_norm(x, x.shape[-1:], eps=eps) * (w[name + ".weight"] + 1)
        linear = lambda x, name: F.linear(x.to(self.dtype), w[name + ".weight"]).float()
        x = w["embed_tokens.weight"][self.ids].float() * c["hidden_size"] ** 0.5
        angles = torch.arange(len(x)).float()[:, None] * c["rope_theta"] ** (-torch.arange(0, k, 2).float() / k)
        sin, cos = angles.sin()[:, None], angles.cos()[:, None]

        def turn(x):
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        for i in range(c["num_hidden_layers"]):
            p = f"layers.{i}."
            y = norm(x, p + "pre_self_attn_layernorm")
            q, key, v = (linear(y, f"{p}self_attn.{n}_proj").reshape(len(x), -1, k) for n in "qkv")
            q, key, v = (y.to(self.dtype).transpose(0, 1) for y in (turn(q), turn(key), v))
            key, v = (y.repeat_interleave(len(q) // len(y), 0) for y in (key, v))
            logits = (q @ key.transpose(1, 2)).float() * c["query_pre_attn_scalar"] ** -0.5
            logits = torch.tanh(logits / c["attn_logit_softcapping"]) * c["attn_logit_softcapping"]
            y = (logits.softmax(-1).to(self.dtype) @ v).float().transpose(0, 1).flatten(1)
            x = x + norm(linear(y, p + "self_attn.o_proj"), p + "post_self_attn_layernorm")
            y = norm(x, p + "pre_feedforward_layernorm")
            y = F.gelu(linear(y, p + "mlp.gate_proj"), approximate="tanh") * linear(y, p + "mlp.up_proj")
            x = x + norm(linear(y, p + "mlp.down_proj"), p + "post_feedforward_layernorm")
        return {"": norm(x, "norm")}


# Video: [1, C, T, H, W]


def flat(value, prefix=""):
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    return {k: v for key, part in value.items() for k, v in flat(part, f"{prefix}.{key}".lstrip(".")).items()}


def unit(x, eps):
    """Root-mean-square norm over the channels."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps)


def unpatch(x):
    """[1, C*4, T, H, W] to [T, 2H, 2W, C]: channels in the order (C, x, y)."""
    _, c, t, h, w = x.shape
    return x[0].reshape(c // 4, 2, 2, t, h, w).permute(3, 4, 2, 5, 1, 0).reshape(t, 2 * h, 2 * w, c // 4)


class Video:
    """What the parts for video share: weights by name in the precision of products."""

    def __init__(self, weights, stats):
        self.weights, self.stats = weights, stats

    def to(self, dtype):
        self.typed = {k: v.to(dtype) for k, v in self.weights.items()}
        self.dtype = dtype
        return self

    def conv(self, x, name, **options):
        w = self.typed[name + ".weight"]
        convolve = F.conv3d if w.dim() == 5 else F.conv2d
        return convolve(x.to(self.dtype), w, self.typed[name + ".bias"], **options).float()

    def frames(self, x, name, **options):
        """A convolution of each frame."""
        y = self.conv(x[0].transpose(0, 1), name, **options)
        return y.transpose(0, 1)[None]


class FastDecoder(Video):
    def __init__(self, folder, inputs, stats):
        weights = flat(torch.load(f"{folder}/turbo_vae/checkpoint-340000.ckpt", weights_only=True))
        prefix = "ema_state_dict.module.decoder."
        super().__init__({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, stats)
        self.config = json.load(open(f"{folder}/turbo_vae/TurboV3-Wan22-TinyShallow_7_7.json"))
        self.latents = inputs["latents"]

    def time(self, x, name):
        reach = self.typed[name + ".conv.weight"].shape[2] // 2
        x = F.pad(x, (0, 0, 0, 0, reach, reach), mode="replicate") if reach else x
        side = self.typed[name + ".conv.weight"].shape[3] // 2
        return self.conv(x, name + ".conv", padding=(0, side, side))

    def residual(self, x, name, first=F.silu):
        y = self.time(first(unit(x, 1e-8)), name + ".conv1")
        y = self.time(F.silu(unit(y, 1e-8)), name + ".conv2")
        if name + ".conv_shortcut.conv.weight" in self.typed:
            x = self.time(unit(x, self.config.get("resnet_norm_eps", 1e-6)), name + ".conv_shortcut")
        return x + y

    def __call__(self):
        c, mean_std = self.config, self.stats
        assert self.latents.shape[1] <= c["first_chunk_size"], "more than one window"
        z = self.latents[None] * mean_std[1].view(1, -1, 1, 1, 1) + mean_std[0].view(1, -1, 1, 1, 1)
        x = self.time(z, "conv_in")
        for i in range(c["decoder_layers_per_block"][-1]):
            x = self.residual(x, f"mid_block.resnets.{i}")
        for i, at in enumerate(reversed(range(len(c["decoder_block_out_channels"])))):
            name, enlarges = f"up_blocks.{i}", c["decoder_spatio_temporal_scaling"][at]
            if x.shape[1] != c["decoder_block_out_channels"][at]:
                x = self.residual(x, name + ".conv_in")
            if enlarges:
                if not c["decoder_spatio_only"][at]:
                    y = self.time(x, name + ".upsamplers.0.time_conv")
                    _, two, t, h, w = y.shape
                    x = y.reshape(1, 2, two // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(1, two // 2, 2 * t, h, w)[:, :, 1:]
                x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
                x = self.frames(x, name + ".upsamplers.0.resample.1", padding=1)
            for j in range(c["decoder_layers_per_block"][at]):
                x = self.residual(x, f"{name}.resnets.{j}", F.relu if enlarges else F.silu)
        return {"": unpatch(self.time(F.silu(unit(x, 1e-8)), "conv_out"))}


class Wan(Video):
    def causal(self, x, name, **options):
        w = self.typed[name + ".weight"]
        back, side = w.shape[2] - 1, w.shape[3] // 2
        return self.conv(F.pad(x, (side, side, side, side, back, 0)), name, **options)

    def gamma(self, x, name):
        return unit(x, 0) * self.weights[name + ".gamma"].view(1, -1, 1, 1, 1)

    def residual(self, x, name):
        y = self.causal(F.silu(self.gamma(x, name + ".residual.0")), name + ".residual.2")
        y = self.causal(F.silu(self.gamma(y, name + ".residual.3")), name + ".residual.6")
        return y + (self.conv(x, name + ".shortcut") if name + ".shortcut.weight" in self.typed else x)

    def middle(self, x, name):
        x = self.residual(x, name + ".0")
        _, c, t, h, w = x.shape
        qkv = self.frames(self.gamma(x, name + ".1.norm"), name + ".1.to_qkv")
        q, k, v = (y.transpose(1, 2).flatten(3).transpose(2, 3).to(self.dtype) for y in qkv[0][None].chunk(3, 1))
        y = F.scaled_dot_product_attention(q, k, v).float()
        y = y.transpose(2, 3).reshape(1, t, c, h, w).transpose(1, 2)
        return self.residual(x + self.frames(y, name + ".1.proj"), name + ".2")

    def stage(self, x, name, resample):
        i = 0
        while f"{name}.{i}.residual.2.weight" in self.typed:
            x = self.residual(x, f"{name}.{i}")
            i += 1
        return resample(x, f"{name}.{i}") if f"{name}.{i}.resample.1.weight" in self.typed else x


class WanDecoder(Wan):
    def __init__(self, folder, inputs, stats):
        super().__init__(torch.load(f"{folder}/Wan2.2-TI2V-5B/Wan2.2_VAE.pth", weights_only=True), stats)
        self.latents = inputs["latents"][:, :EXACT]

    def up(self, x, name):
        if name + ".time_conv.weight" in self.typed and x.shape[2] > 1:
            y = self.causal(x[:, :, 1:], name + ".time_conv")
            _, two, t, h, w = y.shape
            y = y.reshape(1, 2, two // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(1, two // 2, 2 * t, h, w)
            x = torch.cat([x[:, :, :1], y], 2)
        x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
        return self.frames(x, name + ".resample.1", padding=1)

    def repeat(self, x, time, outputs):
        _, c, t, h, w = x.shape
        y = x.repeat_interleave(outputs * time * 4 // c, 1).reshape(1, outputs, time, 2, 2, t, h, w)
        y = y.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(1, outputs, t * time, 2 * h, 2 * w)
        return y[:, :, time - 1 :]

    def __call__(self):
        mean, std = (s.view(1, -1, 1, 1, 1) for s in self.stats)
        x = self.causal(self.conv(self.latents[None] * std + mean, "conv2"), "decoder.conv1")
        x = self.middle(x, "decoder.middle")
        for i in range(4):
            y = self.stage(x, f"decoder.upsamples.{i}.upsamples", self.up)
            if y.shape[-1] != x.shape[-1]:
                y = y + self.repeat(x, 2 if y.shape[2] > x.shape[2] else 1, y.shape[1])
            x = y
        x = F.silu(self.gamma(x, "decoder.head.0"))
        return {"": unpatch(self.causal(x, "decoder.head.2"))}


class WanEncoder(Wan):
    def __init__(self, folder, inputs, stats):
        super().__init__(torch.load(f"{folder}/Wan2.2-TI2V-5B/Wan2.2_VAE.pth", weights_only=True), stats)
        self.pictures = inputs["pictures"]

    def down(self, x, name):
        x = self.frames(F.pad(x, (0, 1, 0, 1)), name + ".resample.1", stride=2)
        if name + ".time_conv.weight" in self.typed:
            x = torch.cat([x[:, :, :1], self.conv(x, name + ".time_conv", stride=(2, 1, 1))], 2)
        return x

    def average(self, x, time, space, outputs):
        _, c, t, h, w = x.shape
        if time * space == 1 and c == outputs:
            return x
        # The first frame comes alone, with zeros before it.
        x = F.pad(x, (0, 0, 0, 0, time - 1, 0))
        t = x.shape[2] // time
        x = x.reshape(1, c, t, time, h // space, space, w // space, space).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return x.reshape(1, outputs, -1, t, h // space, w // space).mean(2)

    def __call__(self):
        t, h, w, c = self.pictures.shape
        x = self.pictures.permute(3, 0, 1, 2).reshape(c, t, h // 2, 2, w // 2, 2)
        x = self.causal(x.permute(0, 5, 3, 1, 2, 4).reshape(1, 4 * c, t, h // 2, w // 2), "encoder.conv1")
        for i in range(4):
            y = self.stage(x, f"encoder.downsamples.{i}.downsamples", self.down)
            time, space = (2 if y.shape[2] < x.shape[2] else 1), x.shape[-1] // y.shape[-1]
            x = y + self.average(x, time, space, y.shape[1])
        x = self.middle(x, "encoder.middle")
        x = self.causal(F.silu(self.gamma(x, "encoder.head.0")), "encoder.head.2")
        mean = self.conv(x, "conv1").chunk(2, 1)[0]
        return {"": ((mean - self.stats[0].view(1, -1, 1, 1, 1)) / self.stats[1].view(1, -1, 1, 1, 1))[0]}


# Audio: [1, C, T]


class Audio:
    def __init__(self, folder, half, x):
        config = json.load(open(f"{folder}/stable-audio-open-1.0/model_config.json"))
        self.strides = config["model"]["pretransform"]["config"][half]["config"]["strides"]
        weights = load_file(f"{folder}/stable-audio-open-1.0/model.safetensors")
        prefix = f"pretransform.model.{half}.layers."
        weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        for name in [k.removesuffix("_v") for k in weights if k.endswith(".weight_v")]:
            v = weights.pop(name + "_v")
            weights[name] = v * (weights.pop(name + "_g") / v.flatten(1).norm(dim=1)[:, None, None])
        self.weights, self.x = weights, x.t()[None].contiguous()

    def to(self, dtype):
        self.typed = {k: v.to(dtype) if k.endswith("weight") or k.endswith("bias") else v for k, v in self.weights.items()}
        self.dtype = dtype
        return self

    def conv(self, x, name, convolve=F.conv1d, **options):
        return convolve(x.to(self.dtype), self.typed[name + ".weight"], self.typed.get(name + ".bias"), **options).float()

    def snake(self, x, name):
        a, b = (self.weights[f"{name}.{n}"].exp().view(1, -1, 1) for n in ("alpha", "beta"))
        return x + torch.sin(a * x).square() / (b + 1e-9)

    def units(self, x, name, first):
        for i, dilation in enumerate((1, 3, 9)):
            at = f"{name}.{first + i}.layers"
            y = self.conv(self.snake(x, at + ".0"), at + ".1", padding=3 * dilation, dilation=dilation)
            x = x + self.conv(self.snake(y, at + ".2"), at + ".3")
        return x


class AudioDecoder(Audio):
    def __init__(self, folder, inputs):
        super().__init__(folder, "decoder", inputs["sound"])

    def __call__(self):
        x, last = self.conv(self.x, "0", padding=3), len(self.strides) + 1
        for i, stride in enumerate(reversed(self.strides)):
            name = f"{i + 1}.layers"
            x = self.snake(x, name + ".0")
            x = self.conv(x, name + ".1", F.conv_transpose1d, stride=stride, padding=(stride + 1) // 2)
            x = self.units(x, name, 2)
        return {"": self.conv(self.snake(x, f"{last}"), f"{last + 1}", padding=3)[0].t()}


class AudioEncoder(Audio):
    def __init__(self, folder, inputs):
        super().__init__(folder, "encoder", inputs["wave"])

    def __call__(self):
        x, last = self.conv(self.x, "0", padding=3), len(self.strides) + 1
        for i, stride in enumerate(self.strides):
            name = f"{i + 1}.layers"
            x = self.snake(self.units(x, name, 0), name + ".3")
            x = self.conv(x, name + ".4", stride=stride, padding=(stride + 1) // 2)
        return {"": self.conv(self.snake(x, f"{last}"), f"{last + 1}", padding=1)[0].t().chunk(2, 1)[0]}


# The public means and deviations of the latents, taken from the golden file of the fast decoder.


def parts(folder, stats):
    inputs = load_file(f"{folder}/inputs.safetensors")
    return {
        "transformer": Transformer(folder, inputs),
        "text encoder": TextEncoder(folder, inputs),
        "fast video decoder": FastDecoder(folder, inputs, stats),
        "video decoder": WanDecoder(folder, inputs, stats),
        "video encoder": WanEncoder(folder, inputs, stats),
        "audio decoder": AudioDecoder(folder, inputs),
        "audio encoder": AudioEncoder(folder, inputs),
    }


def best(run):
    """The least time of two calls, and the least processor time, after one to warm up; of that one alone if it is long."""
    times = []
    for _ in range(3):
        call, busy = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - call, time.process_time() - busy))
        if times[0][1] > LONG:
            return times[0]
    return tuple(map(min, zip(*times[1:])))


def ours(process, name):
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return tuple(map(float, process.stdout.readline().split()))


def compare(part, run, outputs):
    """The greatest relative error of ours to PyTorch's f32, in f32 and in bf16 products."""
    got = run.to(torch.float32)()
    error = lambda precision: max(relative(outputs[f"{part} {precision}{name}"], y) for name, y in got.items())
    return error("f32"), error("bf16")


def processor():
    with open("/proc/cpuinfo") as info:
        return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))


def measure(process, part, run, rounds):
    kinds = ["bf16", "f32", torch.float32, torch.bfloat16]
    times = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            if isinstance(kind, str):
                times[kind].append(ours(process, f"{part} {kind}"))
            elif not times[kind] or times[kind][0][1] < LONG:
                times[kind].append(best(run.to(kind)))
    return [[statistics.median(t[i] for t in times[kind]) for i in range(2)] for kind in kinds]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--note", default="")
    parser.add_argument("--only", default="", help="part of the names of the parts")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    os.environ["RAYON_NUM_THREADS"] = str(THREADS)
    if not os.path.exists(f"{args.folder}/outputs.safetensors"):
        subprocess.run([args.binary, "--write", args.folder], check=True)
    here = os.path.dirname(os.path.abspath(__file__))
    golden = load_file(f"{here}/../tests/golden/turbo_vaed.safetensors")
    outputs = load_file(f"{args.folder}/outputs.safetensors")
    command = [args.binary, "--serve", args.folder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = [
        f"# The full-size model's parts beside PyTorch {torch.__version__}, {datetime.date.today()}",
        "",
        f"{processor()}, {THREADS} threads; medians of {args.rounds} rounds in turns. {args.note}".strip(),
        "",
        "Errors are of ours to PyTorch's f32 on the same weights and inputs. Ratios are PyTorch's time over ours, ours with"
        " products in bf16 (audio: f32), as `gallop generate` runs the part; above 1 means faster than PyTorch. The"
        " second one is of processor time, which says more where other programs run.",
        "",
        "| part | error f32 | error bf16 | ours bf16, s | ours f32, s | PyTorch f32, s | PyTorch bf16, s |"
        " ratio to f32 | ratio to bf16 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    with torch.no_grad():
        for part, run in parts(args.folder, (golden["mean"], golden["std"])).items():
            if args.only not in part:
                continue
            errors = compare(part, run, outputs)
            bf16, f32, theirs, theirs_bf16 = measure(process, part, run, args.rounds)
            used = f32 if part.startswith("audio") else bf16
            ratio = lambda them: f"{them[0] / used[0]:.2f} ({them[1] / used[1]:.2f})"
            row = (
                f"| {part} | {errors[0]:.1e} | {errors[1]:.1e} | {bf16[0]:.3f} | {f32[0]:.3f} | {theirs[0]:.3f} "
                f"| {theirs_bf16[0]:.3f} | {ratio(theirs)} | {ratio(theirs_bf16)} |"
            )
            lines.append(row)
            print(row, flush=True)
    process.stdin.close()
    if args.out:
        with open(args.out, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
