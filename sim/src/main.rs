//! `tracklog-sim`: runs seeded programs, and repeats one.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a program for the terminal")]

use std::process::ExitCode;
use std::str::FromStr;
use std::thread;

use tracklog_sim::{Campaign, Outcome, Totals, run_program, sweep};

const USAGE: &str = "\
Usage: tracklog-sim run [--programs N] [--seed S] [--threads N] [--json]
       tracklog-sim replay SEED
       tracklog-sim sweep [--json]

run      random programs with faults and crashes, one for each seed from S on; exits with 0 only
         if every promise held
replay   one of them again, telling each step
sweep    a fixed program, in which each operation of the disk fails in turn";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments) {
        Ok(Command::Run { campaign, json }) => run(campaign, json),
        Ok(Command::Replay { seed }) => replay(seed),
        Ok(Command::Sweep { json }) => sweep_all(json),
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Command {
    Run { campaign: Campaign, json: bool },
    Replay { seed: u64 },
    Sweep { json: bool },
}

fn command(arguments: &[String]) -> Result<Command, String> {
    let (verb, rest) = arguments.split_first().ok_or("what is to be done?")?;
    match (verb.as_str(), rest) {
        ("replay", [seed]) => Ok(Command::Replay { seed: number(seed)? }),
        ("sweep", []) => Ok(Command::Sweep { json: false }),
        ("sweep", [json]) if json == "--json" => Ok(Command::Sweep { json: true }),
        ("run", options) => run_command(options),
        _ => Err(format!("{verb}: no such command, or not so many words")),
    }
}

fn run_command(options: &[String]) -> Result<Command, String> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut campaign = Campaign { seed: 1, programs: 2_000, threads };
    let mut json = false;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        if option == "--json" {
            json = true;
            continue;
        }
        let value = options.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--programs" => campaign.programs = number(value)?,
            "--seed" => campaign.seed = number(value)?,
            "--threads" => campaign.threads = number(value)?,
            _ => return Err(format!("{option}: no such option")),
        }
    }
    Ok(Command::Run { campaign, json })
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

fn run(campaign: Campaign, json: bool) -> ExitCode {
    let ended = |seed: u64, outcome: &Outcome, totals: &Totals| {
        if let Some(violation) = &outcome.violation {
            eprintln!("seed {seed}: {violation}");
            eprintln!("  repeat it: cargo run --release -p tracklog-sim -- replay {seed}");
        }
        if !json && totals.programs.is_multiple_of(200) {
            println!("{totals}");
        }
    };
    conclude(&campaign.run(&ended), json)
}

fn sweep_all(json: bool) -> ExitCode {
    let totals = sweep(1, &|nth, lasting, violation| {
        eprintln!("operation {nth} fails {lasting:?}: {violation}");
    });
    conclude(&totals, json)
}

fn conclude(totals: &Totals, json: bool) -> ExitCode {
    if json {
        println!("{}", totals.to_json());
    } else {
        println!("{totals}");
    }
    if totals.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64) -> ExitCode {
    let outcome = run_program(seed, true);
    println!("trace {:016x}", outcome.trace);
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}
