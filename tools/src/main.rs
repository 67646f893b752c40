//! The `tracklog` command: runs a node, and reads, checks and measures logs.
//!
//! Each verb is a file below `verbs`, with its flags, its help and its work. What they share:
//! - [`reading`]: where a verb reads, a running node or a folder opened offline;
//! - [`node_client`], [`http_client`], [`patience`]: talking to a node;
//! - [`output`]: standard output, which carries data and nothing else;
//! - [`terminal`]: text of others, made safe to show;
//! - [`own_folder`]: folders of nodes that a verb runs for itself;
//! - [`span`], [`random`]: spans of time, and numbers that follow from a seed;
//! - [`failure`]: one line on standard error, and the exit status: 0 done, 1 the answer is no, 2
//!   could not run.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "this is the room whose business is standard output")]

mod asked_event;
mod failure;
mod http_client;
mod node_client;
mod output;
mod own_folder;
mod patience;
mod pretty;
mod random;
mod reading;
mod span;
mod terminal;
mod tls;
mod verbs;

use std::borrow::Cow;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::Failure;
use terminal::printable;

/// Help is no wider, however wide the terminal.
const HELP_WIDTH: usize = 100;

/// Event tracking in one program: SDK calls in, a durable log, and back out.
#[derive(Parser)]
#[command(
    name = "tracklog",
    version,
    max_term_width = HELP_WIDTH,
    propagate_version = true,
    after_help = "\
First steps:
  tracklog demo                       see it run, with traffic, for as long as you like
  tracklog serve                      a node on 127.0.0.1:8080 and :8443, in ./tracklog-data
  tracklog tail raw                   watch accepted events come in
  tracklog watch                      counts, rates and sums of them, live
  tracklog replay raw --from -15m     the last 15 minutes again
  tracklog verify                     check every byte of ./tracklog-data

Exit status: 0 done, 1 the answer is no (damage found, some rows rejected), 2 could not run."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(verbs::serve::Serve),
    Demo(verbs::demo::Demo),
    Tail(verbs::tail::Tail),
    Watch(verbs::watch::Watch),
    Replay(verbs::replay::Replay),
    Backfill(verbs::backfill::Backfill),
    Diff(verbs::diff::Diff),
    Reprocess(verbs::reprocess::ReprocessCommand),
    Verify(verbs::verify::Verify),
    Archive(verbs::archive::ArchiveCommand),
    Backup(verbs::backup::BackupVerb),
    Restore(verbs::restore::RestoreVerb),
    Export(verbs::export::Export),
    Inspect(verbs::inspect::Inspect),
    Topic(verbs::topic::TopicCommand),
    Find(verbs::find::Find),
    Forget(verbs::forget::ForgetCommand),
    Group(verbs::group::GroupCommand),
    Schema(verbs::schema::SchemaCommand),
    Enrich(verbs::enrich::EnrichCommand),
    Rejected(verbs::rejected::RejectedCommand),
    Route(verbs::route::RouteCommand),
    Destination(verbs::destination::DestinationCommand),
    Doctor(verbs::doctor::Doctor),
    Torture(verbs::torture::Torture),
    Bench(verbs::bench::BenchCommand),
    Completions(verbs::completions::Completions),
}

fn main() -> ExitCode {
    // Another C library than glibc keeps what it keeps.
    let _ = tracklog_server::bound_heap();
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    let ended = match cli.verb {
        Verb::Serve(serve) => serve.run(),
        Verb::Demo(demo) => demo.run(),
        Verb::Tail(tail) => tail.run(),
        Verb::Watch(watch) => watch.run(),
        Verb::Replay(replay) => replay.run(),
        Verb::Backfill(backfill) => backfill.run(),
        Verb::Diff(diff) => diff.run(),
        Verb::Reprocess(reprocess) => reprocess.run(),
        Verb::Verify(verify) => verify.run(),
        Verb::Archive(archive) => archive.run(),
        Verb::Backup(backup) => backup.run(),
        Verb::Restore(restore) => restore.run(),
        Verb::Export(export) => export.run(),
        Verb::Inspect(inspect) => inspect.run(),
        Verb::Topic(topic) => topic.run(),
        Verb::Find(find) => find.run(),
        Verb::Forget(forget) => forget.run(),
        Verb::Group(group) => group.run(),
        Verb::Schema(schema) => schema.run(),
        Verb::Enrich(enrich) => enrich.run(),
        Verb::Rejected(rejected) => rejected.run(),
        Verb::Route(route) => route.run(),
        Verb::Destination(destination) => destination.run(),
        Verb::Doctor(doctor) => doctor.run(),
        Verb::Torture(torture) => torture.run(),
        Verb::Bench(bench) => bench.run(),
        Verb::Completions(completions) => completions.run::<Cli>(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// Says what is wrong with the arguments, or helps, and ends. Where an argument could do something
/// to a terminal the error goes without colours, so that the rest can be escaped.
fn refuse(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    if text.lines().all(|line| matches!(printable(line), Cow::Borrowed(_))) {
        error.exit();
    }
    text.lines().for_each(|line| eprintln!("{}", printable(line)));
    std::process::exit(error.exit_code())
}

/// Runs a verb that waits for the network: one thread is enough for a client.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::could_not_run)?;
    let ended = runtime.block_on(work);
    // A thread that still waits for a disk or a name must not hold up the end.
    runtime.shutdown_background();
    ended
}

/// The wall clock.
fn now() -> tracklog_protocol::TimeMicros {
    tracklog_server::clock::now()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }

    /// Lines of these texts that go on behind a terminal's edge are cut there, and their rest stands alone.
    #[test]
    fn texts_below_the_options_fit_the_width_that_help_has() {
        fn look(command: &clap::Command) {
            let texts = [command.get_after_help(), command.get_after_long_help()];
            for text in texts.into_iter().flatten().map(ToString::to_string) {
                for line in text.lines() {
                    let (name, width) = (command.get_name(), line.chars().count());
                    assert!(width <= super::HELP_WIDTH, "{name}: {width} characters: {line}");
                }
            }
            command.get_subcommands().for_each(look);
        }
        look(&super::Cli::command());
    }
}
