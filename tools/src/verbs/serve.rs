//! `tracklog serve`: a node, until it is told to stop.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracklog_server::config::{Flags, Settings};
use tracklog_server::node::Node;

use crate::failure::Failure;
use crate::output::{Output, notice};

/// Run a node
///
/// Takes events over HTTP and HTTPS and stores them durably, until SIGTERM or Ctrl-C.
#[derive(Args)]
#[command(after_help = "\
Without any configuration it serves http://127.0.0.1:8080 and https://127.0.0.1:8443 (with a
certificate of its own) from ./tracklog-data. The first start prints the write key of the source
`default`; it stays in DIR/default.key. When it serves, one line on standard output starts with
`ready`. Logs go to standard error.

Flags win over the environment (TRACKLOG_HTTP, TRACKLOG_SLOT_BYTES, TRACKLOG_LIMITS_EVENTS_MAX: a
key of the file in capitals), and that over the file:

  # tracklog.toml
  http = \"0.0.0.0:8080\"
  certificate = \"/etc/tracklog/cert.pem\"
  private_key = \"/etc/tracklog/key.pem\"
  trusted_proxies = [\"10.0.0.0/8\"]
  schemas = \"./schemas\"

  [sources.web]
  write_key = \"tl_…\"
  unknown_events = \"reject\"
  user_id = \"hmac\"
  ip = \"truncate\"
  origins = [\"https://shop.example\"]

Keys of the file: data, http, https, certificate, private_key, public_host, trusted_proxies,
schemas, log, backend (auto, uring, blocking), slot_bytes, settle (on, off), hot_bytes, pack_level,
journal_bytes_max, when_full (refuse, drop_oldest), budget_bytes, ring_bytes, commit_deadline,
dedupe_window, ids_bytes_max, scrub_rate.
Of [sources.NAME]: write_key or write_key_file, unknown_events, user_id, ip, require, origins,
headers, keep_rejected_bytes, event_bytes_max, depth_max, events_max, body_bytes_max,
decoded_bytes_max.
Of [limits]: the last five, for sources that say nothing; connections_max,
address_connections_max, head_timeout, idle_timeout, write_timeout, body_timeout, body_grace,
body_rate_min, answer_timeout, admin_body_bytes_max, header_bytes_max, target_bytes_max,
append_bytes_max.
Of [enrich]: enabled, threads, failed_lookup (keep, reject). Of [enrich.device], [enrich.page],
[enrich.identity]: enabled. Of [enrich.geo]: enabled, databases, stated_addresses, edge (cloudflare,
cloudfront, appengine, vercel, own). Of [enrich.profile]: enabled, memory_bytes,
store (embedded, redis, postgres), url or url_file, timeout, cache_ttl, cache_bytes, user_key,
group_key and layout (json, hash) of Redis, user_query and group_query of PostgreSQL. Of
[enrich.session]: enabled, inactivity.
Of [live]: enabled, names_max, clients_max, sums. Of [[live.thresholds]]: name, event, of (count,
rate, sum), property, window (1s, 1m), above or below, back, for, url, secret or secret_file.
Of [route]: file, from (enriched, raw).
Of [archive]: enabled, url (a folder, or s3://, gs://, az:// where built with `full`), flush_bytes,
flush_interval.
An address with address_connections_max connections (200; an IPv6 /64 counts as one) may open as
many again, which are answered /livez, /health and /readyz alone. trusted_proxies are exempt.
Sizes may be \"256 MiB\", times are \"10s\" or \"500ms\".

Examples:
  tracklog serve
  tracklog serve --config tracklog.toml --data /var/lib/tracklog
  tracklog serve --http 0.0.0.0:8080 --https off")]
pub(crate) struct Serve {
    /// A TOML file [default: $TRACKLOG_CONFIG, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder: one of a node, an empty one, or one to be made [default: ./tracklog-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to speak plain HTTP, or `off` [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where to speak HTTPS, or `off` [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR")]
    https: Option<String>,
    /// Open although events that were acknowledged are lost, and record that
    #[arg(long)]
    accept_loss: bool,
}

impl Serve {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let flags = Flags {
            config: self.config,
            data: self.data,
            http: self.http,
            https: self.https,
            accept_loss: self.accept_loss,
        };
        // Variables that are no text name nothing of ours.
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let is_named = flags.config.is_some() || std::env::var_os("TRACKLOG_CONFIG").is_some();
        let settings = Settings::load(&flags, environment).map_err(Failure::could_not_run)?;
        if !is_named {
            tell_unread(&settings.data);
        }
        start_logging(&settings.log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::could_not_run)?;
        runtime.block_on(serve(&settings))
    }
}

/// Tells of files that look like settings, where none was named.
fn tell_unread(data: &Path) {
    for folder in [Path::new("."), data] {
        let path = folder.join("tracklog.toml");
        if path.is_file() {
            notice(&format!("{} is not read: name it with --config", path.display()));
        }
    }
}

fn start_logging(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| Failure::of("log", error))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .try_init()
        .map_err(Failure::could_not_run)
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    // Asked for before anything is opened: a signal that comes while starting must count.
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::could_not_run)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::could_not_run)?;
    let starting = Node::start(settings);
    let node = tokio::select! {
        node = starting => node.map_err(Failure::could_not_run)?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    // Whoever waited for the line, or for one before it, may have gone: events come all the same.
    match tell(&node) {
        Ok(()) | Err(Failure::NobodyReads) => {}
        Err(failure) => {
            node.stop().await;
            return Err(failure);
        }
    }
    let failed = tokio::select! {
        why = node.failed() => Some(why),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    tracing::info!("stopping");
    tokio::select! {
        () = node.stop() => {}
        _ = terminate.recv() => return Err(stopped_at_once()),
        _ = interrupt.recv() => return Err(stopped_at_once()),
    }
    match failed {
        Some(why) => Err(Failure::of("the log is closed, start again to recover it", why)),
        None => Ok(()),
    }
}

/// Whoever asks twice does not want to wait. What was acked is safe all the same.
fn stopped_at_once() -> Failure {
    Failure::could_not_run("stopped at once: requests in hand were cut")
}

fn tell(node: &Node) -> Result<(), Failure> {
    tracing::info!("disk backend: {}", node.backend());
    let (key, file) = (node.default_key(), node.folder().file("default.key"));
    let file = file.display();
    if key.made {
        eprintln!("write key of the source `default`: {} (kept in {file})", key.text);
    } else {
        tracing::info!("write key of the source `default`: see {file}");
    }
    let mut output = Output::new();
    output.line(&node.ready_line())?;
    output.flush()
}
