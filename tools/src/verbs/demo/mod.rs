//! `tracklog demo`: a node of its own, with traffic, and a live view.
//!
//! The node, the TLS and the requests are the real ones; only the shop is made up.

mod downstream;
mod places;
mod shop;
mod traffic;
mod view;

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use downstream::Progress;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tracklog_server::config::{Flags, Settings, SettleSetting, WhenFullSetting};
use tracklog_server::node::{Node, StartError};
use traffic::{Tally, Traffic};
use view::{Facts, View};

use crate::failure::Failure;
use crate::http_client::Endpoint;
use crate::span::span;
use crate::{own_folder, tls};

/// How often the view is drawn on a terminal, and elsewhere.
const DRAWN_EVERY: Duration = Duration::from_millis(250);
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// A demo left running must not fill the disk.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;
const SLOT_BYTES: u64 = 16 << 20;
/// The rules that the demo begins with, and where they and what they export lie in its folder.
const ROUTES: &str = include_str!("routes.toml");
const ROUTES_FILE: &str = "routes.toml";
const PLACES_FILE: &str = "made-by-tracklog-demo-places.mmdb";
/// What the demo leaves in its folder beside a node's own.
const OWN_FILES: [&str; 2] = [ROUTES_FILE, "export"];
/// Whoever watches wants to see the archive grow.
const ARCHIVED_EVERY: Duration = Duration::from_secs(5);
/// How long the last events may take to where they belong; a destination may be held.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of HTTP and HTTPS.
const USUAL_PORTS: [u16; 2] = [8080, 8443];

/// Run a node of its own with realistic traffic, and watch it
///
/// The traffic is a shop's, over HTTPS, some of it malformed. Shows what is accepted, what is
/// rejected and why, how fast, on which disk backend, and how far behind it is what is enriched,
/// routed, counted live and archived.
#[derive(Args)]
#[command(after_help = "\
The folder is made anew at each start; one that no demo made is never touched. While the demo runs
it prints commands to try. Ctrl-C, or --for, ends it: it sends no more, and waits up to 30 s until
all that was accepted is enriched, routed and archived; Ctrl-C again ends it at once. The folder
stays for `tracklog replay`.

Examples:
  tracklog demo
  tracklog demo --for 10s
  tracklog demo --rate 2000")]
pub(crate) struct Demo {
    /// End by itself after this time: 10s, 5m, 1h
    #[arg(long = "for", value_name = "TIME", value_parser = span)]
    time: Option<Duration>,
    /// Events a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The demo's folder
    #[arg(long, value_name = "DIR", default_value = "./tracklog-demo")]
    data: PathBuf,
    /// A line a second instead of the live view; so it is anyway where there is no terminal
    #[arg(long)]
    plain: bool,
}

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        own_folder::make_anew(&self.data, "demo", &OWN_FILES, &self.data)?;
        let routes = self.data.join(ROUTES_FILE);
        std::fs::write(&routes, ROUTES).map_err(|error| Failure::of(routes.display(), error))?;
        places::write_database(&self.data.join(PLACES_FILE))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::could_not_run)?;
        runtime.block_on(self.show())
    }

    /// Starts on the usual ports where they are free, else on any. Between a look and the start
    /// another program may take one: then any serve.
    async fn start(&self) -> Result<Node, Failure> {
        let free = |port| if TcpListener::bind(("127.0.0.1", port)).is_ok() { port } else { 0 };
        let started = match Node::start(&self.settings(USUAL_PORTS.map(free))?).await {
            Err(StartError::Listen { .. }) => Node::start(&self.settings([0, 0])?).await,
            started => started,
        };
        started.map_err(Failure::could_not_run)
    }

    /// The backend may come from the environment; where the demo lives may not.
    fn settings(&self, [http, https]: [u16; 2]) -> Result<Settings, Failure> {
        let address = |port: u16| Some(format!("127.0.0.1:{port}"));
        let flags = Flags {
            data: Some(self.data.clone()),
            http: address(http),
            https: address(https),
            ..Flags::default()
        };
        let backend = std::env::var("TRACKLOG_BACKEND").ok();
        let environment = backend.map(|backend| ("TRACKLOG_BACKEND".to_owned(), backend));
        let mut settings = Settings::load(&flags, environment).map_err(Failure::could_not_run)?;
        settings.journal.slot_bytes = Some(SLOT_BYTES);
        settings.journal.bytes_max = Some(JOURNAL_BYTES_MAX);
        settings.journal.when_full = WhenFullSetting::DropOldest;
        settings.journal.settle = SettleSetting::Off;
        // The demo's clients say for whom they ask, as a proxy does.
        settings.trusted_proxies = vec![IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST))];
        settings.enrich.geo.databases = vec![self.data.join(PLACES_FILE)];
        settings.archive = settings.archive.flushed_every(ARCHIVED_EVERY);
        Ok(settings)
    }

    async fn show(&self) -> Result<(), Failure> {
        let node = self.start().await?;
        for (event, schema) in shop::SCHEMAS {
            let put = node.registry().put(event, Bytes::from_static(schema.as_bytes())).await;
            put.map_err(|error| Failure::of(event, error))?;
        }
        let live = !self.plain && std::io::stdout().is_terminal();
        let mut view = View::new(Facts::of(&node, &self.data), live);
        view.begin()?;
        let shown = self.watch(&node, &mut view).await;
        node.stop().await;
        shown
    }

    /// Sends and shows until it is time to end.
    async fn watch(&self, node: &Node, view: &mut View) -> Result<(), Failure> {
        let address = node.https().expect("the demo serves HTTPS");
        let config = tls::trusting(&node.folder().file("cert.pem"))?;
        let endpoint = Endpoint::tls("127.0.0.1", address.port(), config);
        let tally = Arc::new(Tally::default());
        let (stop, stopping) = watch::channel(false);
        let key = node.default_key().text.clone();
        let traffic = Traffic::start(endpoint, &key, self.rate, &tally, &stopping);
        let mut progress = Progress::of(node);
        let ended = self.until_the_end(node, view, &tally, &mut progress).await;
        stop.send_replace(true);
        traffic.ended().await;
        if ended.is_ok() {
            until_all_is_through(node, view, &tally, &mut progress).await?;
        }
        view.end(&tally, &progress.at_the_end())?;
        ended
    }

    async fn until_the_end(
        &self,
        node: &Node,
        view: &mut View,
        tally: &Tally,
        progress: &mut Progress<'_>,
    ) -> Result<(), Failure> {
        let mut beat = beat(view);
        let end = self.time.map(|time| Instant::now() + time);
        let at_the_end = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(at_the_end);
        loop {
            tokio::select! {
                _ = beat.tick() => view.draw(tally, &progress.now())?,
                () = &mut at_the_end => return Ok(()),
                interrupted = tokio::signal::ctrl_c() => {
                    return interrupted.map_err(Failure::could_not_run);
                }
                why = node.failed() => return Err(Failure::of("the log is closed", why)),
            }
        }
    }
}

fn beat(view: &View) -> Interval {
    let mut beat = interval(if view.is_live() { DRAWN_EVERY } else { TOLD_EVERY });
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// Nothing is sent any more: shows how the rest comes through.
async fn until_all_is_through(
    node: &Node,
    view: &mut View,
    tally: &Tally,
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let mut beat = beat(view);
    let end = sleep_until(Instant::now() + PATIENCE);
    tokio::pin!(end);
    while !progress.is_through().await? {
        tokio::select! {
            _ = beat.tick() => view.draw(tally, &progress.at_the_end())?,
            () = &mut end => return Ok(()),
            interrupted = tokio::signal::ctrl_c() => {
                return interrupted.map_err(Failure::could_not_run);
            }
            why = node.failed() => return Err(Failure::of("the log is closed", why)),
        }
    }
    Ok(())
}
