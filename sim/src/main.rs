//! `tracklog-sim`: runs seeded programs, and repeats one.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is a program for the terminal")]

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use tracklog_engine::BackendChoice;
use tracklog_sim::{Campaign, Failure, FileSystem, Outcome, PowerCuts, Totals, run_program, sweep};

const USAGE: &str = "\
Usage: tracklog-sim run [--programs N] [--seed S] [--threads N] [--json]
       tracklog-sim replay SEED
       tracklog-sim resend [--programs N] [--seed S] [--threads N] [--json]
       tracklog-sim sweep [--every K] [--from N] [--json]
       tracklog-sim powercut --fs ext4|xfs --dir DIR [--points N] [--seed S] [--seconds N]
                    [--uring] [--without-sync] [--again POINT] [--json]

run      random programs with faults and crashes, one for each seed from S on; exits with 0 only
         if every promise held
replay   one of them again, telling each step
resend   random programs of clients that send the same events again and again, to a log that stores
         each once; exits with 0 only if every promise held
sweep    a fixed program, in which each operation of the disk fails in turn, with an error of the
         medium and for want of room: every Kth from the Nth on
powercut the log on a real file system, over a disk that is put together as it may have stood at N
         moments; wants root, FUSE and qemu-storage-daemon (exits with 3 without). With
         --without-sync it exits with 0 only if acked records were lost; --again looks at one moment
         of the disk that lies in DIR";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments) {
        Ok(Command::Run { campaign, json }) => run(campaign, json),
        Ok(Command::Replay { seed }) => replay(seed),
        Ok(Command::Resend { campaign, json }) => resend(campaign, json),
        Ok(Command::Sweep { first, stride, json }) => sweep_some(first, stride, json),
        Ok(Command::PowerCut { cuts, json }) => powercut(&cuts, json),
        Err(what) => {
            eprintln!("{what}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

enum Command {
    Run { campaign: Campaign, json: bool },
    Replay { seed: u64 },
    Resend { campaign: Campaign, json: bool },
    Sweep { first: u64, stride: NonZeroU64, json: bool },
    PowerCut { cuts: Box<PowerCuts>, json: bool },
}

fn command(arguments: &[String]) -> Result<Command, String> {
    let (verb, rest) = arguments.split_first().ok_or("what is to be done?")?;
    match (verb.as_str(), rest) {
        ("replay", [seed]) => Ok(Command::Replay { seed: number(seed)? }),
        ("sweep", options) => sweep_command(options),
        ("run", options) => {
            campaign_of(options).map(|(campaign, json)| Command::Run { campaign, json })
        }
        ("resend", options) => {
            campaign_of(options).map(|(campaign, json)| Command::Resend { campaign, json })
        }
        ("powercut", options) => powercut_command(options),
        _ => Err(format!("{verb}: no such command, or not so many words")),
    }
}

fn campaign_of(options: &[String]) -> Result<(Campaign, bool), String> {
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
    Ok((campaign, json))
}

fn sweep_command(options: &[String]) -> Result<Command, String> {
    let (mut first, mut stride, mut json) = (1, NonZeroU64::MIN, false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--json" => json = true,
            "--every" => stride = number(value()?)?,
            "--from" => first = number(value()?)?,
            _ => return Err(format!("{option}: no such option")),
        }
    }
    Ok(Command::Sweep { first, stride, json })
}

fn powercut_command(options: &[String]) -> Result<Command, String> {
    let (mut file_system, mut folder, mut json) = (None, None, false);
    let mut cuts = PowerCuts {
        file_system: FileSystem::Ext4,
        points: 1_000,
        seed: 1,
        time: Duration::from_secs(10),
        backend: BackendChoice::Blocking,
        syncs: true,
        folder: PathBuf::new(),
        again: None,
    };
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().ok_or_else(|| format!("{option} needs a value"));
        match option.as_str() {
            "--json" => json = true,
            "--uring" => cuts.backend = BackendChoice::Uring,
            "--without-sync" => cuts.syncs = false,
            "--fs" => file_system = FileSystem::named(value()?),
            "--dir" => folder = Some(value()?.into()),
            "--points" => cuts.points = number(value()?)?,
            "--seed" => cuts.seed = number(value()?)?,
            "--seconds" => cuts.time = Duration::from_secs(number(value()?)?),
            "--again" => cuts.again = Some(number(value()?)?),
            _ => return Err(format!("{option}: no such option")),
        }
    }
    cuts.file_system = file_system.ok_or("--fs ext4 or --fs xfs?")?;
    cuts.folder = folder.ok_or("--dir, for the disk and its log?")?;
    Ok(Command::PowerCut { cuts: Box::new(cuts), json })
}

fn powercut(cuts: &PowerCuts, json: bool) -> ExitCode {
    let told = |point: usize, wrong: &[String]| {
        if cuts.syncs {
            wrong.iter().for_each(|what| eprintln!("cut behind request {point}: {what}"));
        }
    };
    let report = match cuts.run(&told) {
        Ok(report) => report,
        Err(Failure::Missing(what)) => {
            eprintln!("skipped: {what}");
            return ExitCode::from(3);
        }
        Err(Failure::Failed(what)) => {
            eprintln!("{what}");
            return ExitCode::FAILURE;
        }
    };
    if json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    let as_it_must = if cuts.syncs { report.bad_points == 0 } else { report.lost > 0 };
    if as_it_must { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn resend(campaign: Campaign, json: bool) -> ExitCode {
    let (done, violations) = campaign.resend();
    for seed in &violations {
        eprintln!("seed {seed} broke a promise");
        eprintln!(
            "  repeat it: cargo run --release -p tracklog-sim -- resend --programs 1 --seed {seed}"
        );
    }
    let (programs, broken) = (campaign.programs, violations.len());
    if json {
        let done = done.to_json();
        println!("{{\"programs\":{programs},\"violations\":{broken},\"did\":{done}}}");
    } else {
        println!("{programs} programs, {broken} violations: {done}");
    }
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sweep_some(first: u64, stride: NonZeroU64, json: bool) -> ExitCode {
    let totals = sweep(first, stride, &|failed, violation| {
        eprintln!("{failed}: {violation}");
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
