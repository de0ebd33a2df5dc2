"""Times the kernels beside PyTorch bf16 on the same shapes, in turns, and writes a table.

    cargo bench -p gallop-kernels --bench kernels --no-run     # prints the path of the binary
    python crates/kernels/benches/compare.py BINARY [--rounds 3] [--out benches/DATE-CPU.md] [--note TEXT]

Every round times each case once with both; the table has the median over the rounds of the times and of the ratios,
so that other load on the machine meets both alike. The floors are what the arithmetic and the memory traffic alone
would take, at the rates given by --gflops and --gbytes.
"""

import argparse
import datetime
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

THREADS = 2


def best(run, budget=0.4):
    """The least time of one call, and the least processor time, over `budget` seconds, but at least three calls
    after one to warm up."""
    run()
    start, least, cpu, calls = time.perf_counter(), float("inf"), float("inf"), 0
    while calls < 3 or time.perf_counter() - start < budget:
        call, busy = time.perf_counter(), time.process_time()
        run()
        least = min(least, time.perf_counter() - call)
        cpu = min(cpu, time.process_time() - busy)
        calls += 1
    return least, cpu


def forward(function, inputs):
    def run():
        with torch.no_grad():
            function(*inputs)

    return run


def backward(function, inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    gradient = torch.randn_like(function(*leaves))

    def run():
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward(gradient)

    return run


def random(*shape):
    return torch.randn(*shape).bfloat16()


def conv_case(batch, sizes, cin, cout, stride=1):
    """A 3x3 or 3x3x3 convolution, channels last. Operations, bytes, function, inputs."""
    dims = len(sizes)
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    function = F.conv2d if dims == 2 else F.conv3d
    x = random(batch, cin, *sizes).to(memory_format=layout)
    w = random(cout, cin, *[3] * dims).to(memory_format=layout)
    outputs = x[0, 0].numel() * batch // stride**dims
    flop = 2 * outputs * w.numel()
    moved = 2 * (x.numel() + w.numel() + outputs * cout)
    return flop, moved, lambda x, w: function(x, w, padding=1, stride=stride), [x, w]


def linear_case(rows, cin, cout):
    moved = 2 * (rows * cin + cin * cout + rows * cout)
    return 2 * rows * cin * cout, moved, F.linear, [random(rows, cin), random(cout, cin)]


def attention_case(length, heads, dim):
    qkv = [random(1, heads, length, dim) for _ in range(3)]
    flop = 4 * length * length * heads * dim
    return flop, 8 * length * heads * dim, F.scaled_dot_product_attention, qkv


def blocks_case(samples, length, width, heads, hidden, layers):
    """Pre-norm transformer blocks: the training step of the notes on compute. Ours also norm and rotate queries and keys
    and gate heads, and train the norms' weights."""
    shapes = [(3 * width, width), (width, width), (hidden, width), (width, hidden)]
    weights = [random(*s) * s[1] ** -0.5 for _ in range(layers) for s in shapes]

    def function(x, *weights):
        for i in range(0, len(weights), 4):
            qkv, out, up, down = weights[i : i + 4]
            parts = F.linear(F.rms_norm(x, (width,)), qkv).view(samples, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
            x = x + F.linear(mixed.transpose(1, 2).reshape(samples * length, width), out)
            x = x + F.linear(F.gelu(F.linear(F.rms_norm(x, (width,)), up), approximate="tanh"), down)
        return x

    rows = samples * length
    flop = layers * (2 * rows * (4 * width * width + 2 * width * hidden) + 4 * rows * length * width)
    moved = layers * 2 * (rows * (8 * width + 2 * hidden) + 4 * width * width + 2 * width * hidden)
    return flop, moved, function, [random(rows, width), *weights]


CASES = {
    "linear 4096x512x2048": lambda: linear_case(4096, 512, 2048),
    "linear 4096x1536x4096": lambda: linear_case(4096, 1536, 4096),
    "attention 4096 8x64": lambda: attention_case(4096, 8, 64),
    "attention 2048 8x40": lambda: attention_case(2048, 8, 40),
    "conv3d 64->64 3x3x3 8x64x64": lambda: conv_case(1, [8, 64, 64], 64, 64),
    "conv2d 128->128 3x3 32x32x32": lambda: conv_case(32, [32, 32], 128, 128),
    "conv2d 256->256 3x3 32x16x16": lambda: conv_case(32, [16, 16], 256, 256),
    "conv2d 3->64 3x3 16x128x128": lambda: conv_case(16, [128, 128], 3, 64),
    "conv2d 64->3 3x3 16x128x128": lambda: conv_case(16, [128, 128], 64, 3),
    "conv2d 128->128 3x3/2 16x64x64": lambda: conv_case(16, [64, 64], 128, 128, 2),
    "blocks 4 of 512, 4x1024": lambda: blocks_case(4, 1024, 512, 8, 2048, 4),
}


def ours(process, name):
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return tuple(map(float, process.stdout.readline().split()))


def measure(process, name, rounds):
    """Rows (name, flop, bytes, our seconds, their seconds, ratio, ratio of processor time) of a case, forward and
    forward+backward."""
    flop, moved, function, inputs = CASES[name]()
    for kind, run, times in [("fwd", forward, 1), ("fwd+bwd", backward, 3)]:
        theirs = run(function, inputs)
        pairs = [(ours(process, f"{name} {kind}"), best(theirs)) for _ in range(rounds)]
        ratios = [statistics.median(b[i] / a[i] for a, b in pairs) for i in range(2)]
        a, b = (statistics.median(column[i][0] for column in pairs) for i in range(2))
        yield f"{name} {kind}", times * flop, times * moved, a, b, *ratios


def processor():
    with open("/proc/cpuinfo") as info:
        return next(line.split(":")[1].strip() for line in info if line.startswith("model name"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    parser.add_argument("--note", default="")
    parser.add_argument("--only", default="", help="part of the names of the cases to time")
    parser.add_argument("--gflops", type=float, default=454, help="bf16 peak of the threads used")
    parser.add_argument("--gbytes", type=float, default=20, help="memory bandwidth of the threads used")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    process = subprocess.Popen([args.binary, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = [
        f"# Kernels beside PyTorch {torch.__version__} bf16, {datetime.date.today()}",
        "",
        f"{processor()}, {THREADS} threads; medians of {args.rounds} rounds in turns. {args.note}".strip(),
        "",
        f"Floors: arithmetic at {args.gflops:.0f} GFLOP/s, bytes (bf16 inputs and outputs once) at {args.gbytes:.0f} GB/s."
        " A ratio above 1 means faster than PyTorch; the second one is that of processor time over all threads, which"
        " says more where other programs run.",
        "",
        "| case | ms | GFLOP/s | PyTorch ms | ratio | processor ratio | arithmetic floor ms | bytes floor ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name in (n for n in CASES if args.only in n):
        for case, flop, moved, a, b, ratio, cpu in measure(process, name, args.rounds):
            row = (
                f"| {case} | {a * 1e3:.1f} | {flop / a / 1e9:.0f} | {b * 1e3:.1f} | {ratio:.2f} | {cpu:.2f} "
                f"| {flop / args.gflops / 1e6:.1f} | {moved / args.gbytes / 1e6:.1f} |"
            )
            lines.append(row)
            print(row, flush=True)
    process.stdin.close()
    if args.out:
        with open(args.out, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
