//! `gallop selftest`.

use std::collections::BTreeSet;

use anyhow::Result;
use gallop_core::UserError;
use gallop_kernels::selftest::{Outcome, compare_devices, compare_instruction_sets};

use crate::args::Selftest;
use crate::device::{DeviceChoice, open_device};

/// Compares every operation with another way of computing it, and prints a table.
pub fn run(args: &Selftest) -> Result<()> {
    let mut failed = BTreeSet::new();
    let mut show = |label: &str, outcome: &Outcome| {
        row(label, outcome);
        if !outcome.passed() {
            failed.insert(outcome.name.clone());
        }
    };
    match args.device {
        DeviceChoice::Cpu => {
            println!("instruction sets against plain code, relative L2 errors");
            header();
            compare_instruction_sets(|isa, outcome| show(&format!("{isa:?}"), outcome))?;
        }
        DeviceChoice::Cuda(number) => {
            let device = open_device(args.device)?;
            println!("GPU {number} against the processor, relative L2 errors");
            match gallop_kernels::fused_attention() {
                Ok(by) => println!("large attentions by {by}"),
                Err(why) => println!("all attentions by Gallop's own kernels: {why}"),
            }
            header();
            compare_devices(&device, |outcome| show("cuda", outcome))?;
        }
    }
    if failed.is_empty() {
        println!("all operations agree");
        return Ok(());
    }
    let names: Vec<_> = failed.into_iter().collect();
    let what = format!("these operations are wrong here: {}", names.join(", "));
    Err(UserError::new(
        what,
        "please report the table with the name of the processor or GPU",
    )
    .into())
}

fn header() {
    println!(
        "{:38} {:12} {:>9} {:>9} {:>9} {:>10}",
        "operation", "on", "forward", "backward", "limit", "ms"
    );
}

fn row(label: &str, outcome: &Outcome) {
    println!(
        "{:38} {label:12} {:9.1e} {:9.1e} {:9.1e} {:10.2}{}",
        outcome.name,
        outcome.forward,
        outcome.backward,
        outcome.limit,
        outcome.time.as_secs_f64() * 1e3,
        if outcome.passed() { "" } else { "  FAILED" }
    );
    if let Some(why) = &outcome.failure {
        println!("    {}", why.lines().next().unwrap_or_default());
    }
}
