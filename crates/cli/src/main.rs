//! The `gallop` command: reads flags, shows progress, and hands over to the libraries.

mod args;
mod bench;
mod device;
mod eval;
mod generate;
mod model;
mod selftest;
mod size;
mod train;
mod ui;
mod world;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use gallop_core::{Cancel, UserError};
use gallop_engine::EngineError;
use serde_json::json;

use crate::args::{Cli, Command, World};

#[global_allocator]
static ALLOCATOR: gallop_kernels::LineAllocator = gallop_kernels::LineAllocator;

/// What shells expect of a program that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    one_thread_for_candle();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let json = matches!(&cli.command, Command::Generate(args) if args.json);
    let cancel = Cancel::default();
    match prepare(&cli, &cancel).and_then(|()| run(&cli.command, json, &cancel)) {
        Ok(()) if cancel.is_cancelled() => ExitCode::from(INTERRUPTED),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, json);
            ExitCode::from(if cancel.is_cancelled() {
                INTERRUPTED
            } else {
                1
            })
        }
    }
}

/// Keeps candle from starting a pool of its own, whose threads spin between the operations that our
/// kernels do not replace: on two cores they take more time than they save.
fn one_thread_for_candle() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: the program has one thread so far, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}

/// Threads, and Ctrl-C: the first one asks to stop, the second one stops at once.
fn prepare(cli: &Cli, cancel: &Cancel) -> Result<()> {
    if let Some(threads) = cli.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
            .context("--threads")?;
    }
    if let Some(isa) = cli.isa {
        gallop_kernels::set_isa(isa).context("--isa")?;
    }
    let cancel = cancel.clone();
    ctrlc::set_handler(move || {
        if cancel.is_cancelled() {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("stopping; once more to stop at once");
        cancel.cancel();
    })
    .context("cannot listen for Ctrl-C")
}

fn run(command: &Command, json: bool, cancel: &Cancel) -> Result<()> {
    let progress = ui::progress(json);
    let progress = progress.as_ref();
    match command {
        Command::Generate(args) => generate::run(args, progress, cancel),
        Command::Model(args::Model::Info(args)) => model::info(args),
        Command::Model(args::Model::Init(args)) => model::init::run(args, progress, cancel),
        Command::Model(args::Model::Quantize(args)) => model::quantize::run(args, progress, cancel),
        Command::Eval(args) => eval::run(args, progress, cancel),
        Command::World(World::Render(args)) => world::render(args, progress),
        Command::World(World::Sheet(args)) => world::sheet(args, progress),
        Command::Sheet(args) => world::clip_sheet(args, progress),
        Command::Train(args) => train::run(args, progress, cancel),
        Command::Bench(args) => bench::run(args, progress, cancel),
        Command::Selftest(args) => selftest::run(args),
    }
}

/// One line on standard error, and an event for programs.
fn report(error: &anyhow::Error, json: bool) {
    let known = error.is::<UserError>() || error.is::<EngineError>();
    let message = if known {
        error.to_string()
    } else {
        format!("{error:#}")
    };
    let line = message.replace(['\n', '\r'], " ");
    if json {
        ui::event(&json!({"event": "error", "message": line}));
    }
    eprintln!("gallop: {line}");
}
