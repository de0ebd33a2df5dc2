//! Times the kernels: `cargo bench -p gallop-kernels [-- --isa=SET filter ..]` prints a table.
//! With `--serve` it times the cases named on its input, one a line, for `compare.py` to take turns with.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

mod cases;

use cases::{Case, all};

#[global_allocator]
static ALLOCATOR: gallop_kernels::LineAllocator = gallop_kernels::LineAllocator;

fn main() {
    let mut args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    args.retain(|arg| {
        let Some(name) = arg.strip_prefix("--isa=") else {
            return true;
        };
        let isa = gallop_kernels::Isa::named(name).expect("an instruction set by its name");
        gallop_kernels::set_isa(isa).expect("one that this processor has");
        false
    });
    gallop_kernels::keep_freed_memory();
    let cases = all();
    if args.iter().any(|a| a == "--serve") {
        return serve(&cases);
    }
    println!(
        "{} threads, {}",
        rayon::current_num_threads(),
        gallop_kernels::gemm::describe()
    );
    println!(
        "{:<44} {:>10} {:>10} {:>10}",
        "case", "ms", "GFLOP/s", "cpu ms"
    );
    for case in cases
        .iter()
        .filter(|c| args.is_empty() || args.iter().any(|a| c.name.contains(a.as_str())))
    {
        let mut run = (case.prepare)();
        let (seconds, cpu) = time(&mut *run, Duration::from_secs(1));
        let rate = case.flop / seconds / 1e9;
        println!(
            "{:<44} {:>10.2} {:>10.0} {:>10.2}",
            case.name,
            seconds * 1e3,
            rate,
            cpu * 1e3
        );
    }
}

/// The least time of one call, and the least processor time of all threads, over `budget` but at least three calls
/// after one to warm up. On a busy machine the second one says more.
fn time(run: &mut dyn FnMut(), budget: Duration) -> (f64, f64) {
    run();
    let (start, mut best, mut least, mut calls) = (Instant::now(), f64::INFINITY, f64::INFINITY, 0);
    while calls < 3 || start.elapsed() < budget {
        let (call, cpu) = (Instant::now(), processor_time());
        run();
        best = best.min(call.elapsed().as_secs_f64());
        least = least.min(processor_time() - cpu);
        calls += 1;
    }
    (best, least)
}

/// Seconds that all threads of this process have run.
fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes the time.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Reads names of cases, and answers each with its seconds and those of the processor.
fn serve(cases: &[Case]) {
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let Some(case) = line.ok().and_then(|l| cases.iter().find(|c| c.name == l)) else {
            return;
        };
        let mut run = (case.prepare)();
        let (seconds, cpu) = time(&mut *run, Duration::from_millis(400));
        writeln!(output, "{seconds} {cpu}")
            .and_then(|()| output.flush())
            .expect("the reader is there");
    }
}
