#!/usr/bin/env python3
"""PyTorch beside `gallop bench`: the matrix products and the attention of each part, at exactly the same shapes.

    gallop bench --shapes > shapes.json
    gallop bench --device cuda --json > gallop.json
    python3 benches/gpu_reference.py shapes.json --json > reference.json
    python3 benches/gpu_reference.py --join gallop.json reference.json

What it times is a lower bound of the public code's time: bf16 products with torch.matmul, and
torch.nn.functional.scaled_dot_product_attention by each fused backend that takes the shape (cuDNN's and
FlashAttention's), the faster one counted; no norms, no positions, no gates, no samplers. Every shape is run a few times
to warm up and then timed by CUDA events; the median counts. On a processor clocks take the place of events.
"""

import argparse
import contextlib
import json
import sys
import time

WARM_UP = 3
RUNS = 10
# A shape that takes longer than this a run is timed fewer times.
LONG_MS = 200.0


def load(path):
    with open(path) as file:
        return json.load(file)


class Clock:
    """Milliseconds of a piece of work, the median of several runs."""

    def __init__(self, torch, device):
        self.torch, self.device = torch, device

    def once(self, work):
        if self.device.type != "cuda":
            start = time.perf_counter()
            work()
            return (time.perf_counter() - start) * 1e3
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        self.torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def median(self, work):
        first = [self.once(work) for _ in range(WARM_UP)][-1]
        runs = RUNS if first < LONG_MS else 3
        times = sorted(self.once(work) for _ in range(runs))
        return times[len(times) // 2]


def matmul(torch, clock, product):
    """One product [m, k] x [k, n] with weights [n, k], as linear layers have them."""
    make = lambda *shape: torch.randn(*shape, device=clock.device, dtype=torch.bfloat16)
    x, weight = make(product["m"], product["k"]), make(product["n"], product["k"])
    return clock.median(lambda: torch.nn.functional.linear(x, weight))


def backends(torch, device):
    """Names and contexts of the fused attentions; on a processor whatever PyTorch takes."""
    if device.type != "cuda":
        return {"default": contextlib.nullcontext}
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kinds = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION"}
    return {name: (lambda k=kind: sdpa_kernel(getattr(SDPBackend, k))) for name, kind in kinds.items() if hasattr(SDPBackend, kind)}


def attention(torch, clock, part, attended):
    """Milliseconds by backend; of a backend that does not take the shape, why."""
    heads, shared, dim = part["query_heads"], part["key_heads"], part["head_dim"]
    make = lambda n, length: torch.randn(1, n, length, dim, device=clock.device, dtype=torch.bfloat16)
    q, k, v = make(heads, attended["queries"]), make(shared, attended["keys"]), make(shared, attended["keys"])
    times, refused = {}, {}
    for name, context in backends(torch, clock.device).items():
        grouped = heads != shared
        run = lambda q, k, v, grouped: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        # Some versions take grouped heads only with keys and values written out for every head.
        whole = lambda x: x.repeat_interleave(heads // shared, 1).contiguous()
        for keys, values, gqa in [(k, v, grouped), (whole(k), whole(v), False)]:
            try:
                with context():
                    times[name] = clock.median(lambda: run(q, keys, values, gqa))
                break
            except (RuntimeError, TypeError) as error:
                refused[name] = str(error).splitlines()[0]
    return times, refused


def time_part(torch, clock, part):
    """The seconds of one step of a part."""
    products = [{**p, "ms": matmul(torch, clock, p)} for p in part["products"]]
    attended = []
    for shape in part["attention"]:
        times, refused = attention(torch, clock, part, shape)
        if not times:
            sys.exit(f"{part['part']}: no fused attention takes {shape}: {refused}")
        attended.append({**shape, "ms": min(times.values()), "backends": times, "refused": refused})
    sum_of = lambda rows: sum(row["ms"] * row["count"] for row in rows) / 1e3
    product_s, attention_s = sum_of(products), sum_of(attended)
    tera = lambda operations, seconds: operations / max(seconds, 1e-12) / 1e12
    return {
        "part": part["part"],
        "tokens": part["tokens"],
        "seconds": (product_s + attention_s) * part["steps"],
        "step_seconds": [product_s + attention_s] * part["steps"],
        "product_seconds": product_s,
        "attention_seconds": attention_s,
        "operations": (part["product_operations"] + part["attention_operations"]) * part["steps"],
        "product_tflops": tera(part["product_operations"], product_s),
        "attention_tflops": tera(part["attention_operations"], attention_s),
        "tflops": tera(part["product_operations"] + part["attention_operations"], product_s + attention_s),
        "products": products,
        "attention": attended,
    }


def measure(args):
    import torch

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    clock = Clock(torch, device)
    results = []
    with torch.inference_mode():
        for part in load(args.shapes):
            print(f"{part['part']}: {sum(part['tokens'])} tokens", file=sys.stderr, flush=True)
            results.append(time_part(torch, clock, part))
    report = {"program": f"PyTorch {torch.__version__}", "device": name, "results": results}
    if args.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['program']} on {name}, bf16")
    print(f"{'part':<12}{'tokens':>9}{'s':>9}{'s a step':>10}{'products':>14}{'attention':>14}")
    for row in results:
        rates = [f"{row[kind + '_tflops']:.1f} TF/s" for kind in ("product", "attention")]
        step = row["step_seconds"][0]
        print(f"{row['part']:<12}{sum(row['tokens']):>9}{row['seconds']:>9.3f}{step:>10.4f}{rates[0]:>14}{rates[1]:>14}")


def join(own, reference):
    """One table of both programs' parts, by name; a ratio above 1 is time beyond PyTorch's lower bound."""
    own, reference = load(own), load(reference)
    if own["device"] != reference["device"]:
        print(f"note: {own['device']} beside {reference['device']}", file=sys.stderr)
    other = {row["part"]: row for row in reference["results"]}
    print(f"| part | tokens | Gallop s | Gallop TFLOP/s | {reference['program']} s | its TFLOP/s | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in own["results"]:
        beside = other.get(row["part"])
        if "error" in row or beside is None:
            continue
        if beside["tokens"] != row["tokens"] or abs(beside["operations"] / row["operations"] - 1) > 1e-6:
            sys.exit(f"{row['part']}: the two are of other shapes; make both from one `gallop bench --shapes`")
        numbers = [f"{row['seconds']:.3f}", f"{row['tflops']:.1f}", f"{beside['seconds']:.3f}", f"{beside['tflops']:.1f}"]
        ratio = row["seconds"] / beside["seconds"]
        print(f"| {row['part']} | {sum(row['tokens'])} | {' | '.join(numbers)} | {ratio:.2f} |")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("shapes", nargs="?", help="what `gallop bench --shapes` prints")
    options.add_argument("--json", action="store_true", help="print JSON as `gallop bench --json` does")
    options.add_argument("--device", help="cuda or cpu [default: cuda where there is one]")
    options.add_argument("--join", nargs=2, metavar=("GALLOP", "REFERENCE"), help="print one table of two JSON files")
    args = options.parse_args()
    if args.join:
        return join(*args.join)
    if not args.shapes:
        options.error("name the file that `gallop bench --shapes` printed")
    measure(args)


if __name__ == "__main__":
    main()
