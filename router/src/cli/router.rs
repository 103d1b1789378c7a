//! `sconce router`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::batches::BatchArgs;
use super::database::DatabaseArgs;
use super::files::FileArgs;
use crate::config::{AuthMode, Config, KeptResponses, Limits, MetricsAccess};

/// Serves the OpenAI API in front of workers.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sconce router --worker unix:/run/sconce/worker.sock
  sconce router --listen 0.0.0.0:8000 --worker http://10.0.0.5:9000 --worker http://10.0.0.6:9000
  sconce router --launcher unix:/run/sconce/launcher.sock")]
pub struct Router {
    /// Where to listen. An address that is not loopback needs a key in the database, or --no-auth
    #[arg(long, env = "SCONCE_LISTEN", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,

    /// A worker: `unix:/path/to/socket` or `http://host:port`. May be repeated
    #[arg(
        long = "worker",
        env = "SCONCE_WORKERS",
        value_name = "ADDRESS",
        value_delimiter = ',',
        required_unless_present = "launcher"
    )]
    #[arg(value_parser = worker)]
    workers: Vec<String>,

    /// A launcher, at an address like a worker's: its routing table says which workers there are and
    /// what names stand for. While it is gone, the last table stays
    #[arg(long, env = "SCONCE_LAUNCHER", value_name = "ADDRESS", value_parser = worker)]
    launcher: Option<String>,

    /// A file with the launcher's last routing table (`sconce.fleet.v1.RoutingTable` in protobuf's
    /// bytes), which the launcher replaces whenever the table changes. Read when the launcher can't
    /// be reached at the start
    #[arg(long, env = "SCONCE_ROUTING_TABLE", value_name = "FILE", requires = "launcher")]
    routing_table: Option<PathBuf>,

    /// A Unix socket by which a router that is started later, with the same flags, takes the port over:
    /// no connection is refused, and this one drains. Only this user's processes may
    #[arg(long, env = "SCONCE_TAKEOVER", value_name = "PATH")]
    takeover: Option<PathBuf>,

    #[command(flatten)]
    database: DatabaseArgs,

    /// Let everyone in, whoever can reach the address
    #[arg(long)]
    no_auth: bool,

    /// A host name that clients may use, beside the loopback names. May be repeated. Without it, a
    /// loopback listener takes only those, and any other listener takes all
    #[arg(
        long = "allowed-host",
        env = "SCONCE_ALLOWED_HOSTS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    #[arg(value_parser = host)]
    allowed_hosts: Vec<String>,

    /// A web origin whose pages may call the API, such as `https://chat.example`, or `*`. May be
    /// repeated
    #[arg(
        long = "cors-origin",
        env = "SCONCE_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    #[arg(value_parser = origin)]
    cors_origins: Vec<String>,

    /// Serve /metrics without a key
    #[arg(long, env = "SCONCE_PUBLIC_METRICS", value_parser = BoolishValueParser::new())]
    public_metrics: bool,

    /// Days that responses are kept after their last use; 0: they are not stored
    #[arg(long, env = "SCONCE_RESPONSE_DAYS", value_name = "DAYS", default_value = "30")]
    #[arg(value_parser = days)]
    response_days: Duration,

    /// Bytes of all stored responses, about; the oldest go first
    #[arg(long, env = "SCONCE_MAX_RESPONSE_BYTES", value_name = "BYTES", default_value_t = KeptResponses::default().max_bytes)]
    max_response_bytes: u64,

    #[command(flatten)]
    files: FileArgs,

    /// Seconds that running requests get at shutdown
    #[arg(long, env = "SCONCE_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "60")]
    #[arg(value_parser = seconds)]
    drain_timeout: Duration,

    /// Seconds that new connections are still taken after /ready has turned to 503 at shutdown
    #[arg(long, env = "SCONCE_SHUTDOWN_DELAY", value_name = "SECONDS", default_value = "0")]
    #[arg(value_parser = seconds)]
    shutdown_delay: Duration,

    /// Drain and exit when standard input ends: whoever started this process has died
    #[arg(long)]
    pub exit_with_stdin: bool,

    #[command(flatten)]
    batches: BatchArgs,

    #[command(flatten)]
    limits: LimitArgs,
}

/// Limits that an operator may have to move; the others are fixed.
#[derive(Args, Clone, Debug)]
struct LimitArgs {
    /// Bytes of a request's body
    #[arg(long, env = "SCONCE_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = Limits::default().max_body_bytes)]
    max_body_bytes: usize,

    /// Open connections
    #[arg(long, env = "SCONCE_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = Limits::default().max_connections)]
    max_connections: usize,

    /// Open connections of one address; loopback is not counted
    #[arg(long, env = "SCONCE_MAX_CONNECTIONS_PER_IP", value_name = "COUNT", default_value_t = Limits::default().max_connections_per_ip)]
    max_connections_per_ip: usize,

    /// Completions that one request may ask for
    #[arg(long, env = "SCONCE_MAX_N", value_name = "COUNT", default_value_t = Limits::default().max_n)]
    max_n: u32,

    /// `stop` texts that one request may have, 1 to 16
    #[arg(long, env = "SCONCE_MAX_STOP", value_name = "COUNT", default_value_t = Limits::default().max_stop as u64)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=16))]
    max_stop: u64,

    /// Seconds that a request may wait for its first step
    #[arg(long, env = "SCONCE_QUEUE_TIMEOUT", value_name = "SECONDS", default_value = "60")]
    #[arg(value_parser = seconds)]
    queue_timeout: Duration,

    /// Seconds that a resumable stream goes on without a reader, and is kept after its end
    #[arg(long, env = "SCONCE_STREAM_GRACE", value_name = "SECONDS", default_value = "30")]
    #[arg(value_parser = seconds)]
    stream_grace: Duration,

    /// Seconds that the answer to a request with an Idempotency-Key is kept after its end
    #[arg(long, env = "SCONCE_IDEMPOTENCY_WINDOW", value_name = "SECONDS", default_value = "600")]
    #[arg(value_parser = seconds)]
    idempotency_window: Duration,

    /// Bytes that are kept of resumable streams and of answers to requests with an Idempotency-Key
    #[arg(long, env = "SCONCE_MAX_KEPT_BYTES", value_name = "BYTES", default_value_t = Limits::default().max_kept_bytes)]
    max_kept_bytes: usize,
}

impl From<Router> for Config {
    fn from(args: Router) -> Self {
        let (file_location, files) = args.files.split();
        Self {
            listen: args.listen,
            database: args.database.into(),
            auth: if args.no_auth { AuthMode::Open } else { AuthMode::Keys },
            workers: args.workers,
            launcher: args.launcher,
            routing_table: args.routing_table,
            takeover: args.takeover,
            drain_timeout: args.drain_timeout,
            shutdown_delay: args.shutdown_delay,
            allowed_hosts: args.allowed_hosts,
            cors_origins: args.cors_origins,
            metrics: if args.public_metrics { MetricsAccess::Public } else { MetricsAccess::Keys },
            responses: KeptResponses {
                ttl: args.response_days,
                max_bytes: args.max_response_bytes,
            },
            batches: args.batches.into(),
            file_location,
            files,
            limits: Limits {
                max_body_bytes: args.limits.max_body_bytes,
                max_connections: args.limits.max_connections,
                max_connections_per_ip: args.limits.max_connections_per_ip,
                max_n: args.limits.max_n,
                max_stop: args.limits.max_stop as usize,
                queue_timeout: args.limits.queue_timeout,
                stream_grace: args.limits.stream_grace,
                idempotency_window: args.limits.idempotency_window,
                max_kept_bytes: args.limits.max_kept_bytes,
                ..Limits::default()
            },
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn days(text: &str) -> Result<Duration, String> {
    let days: u32 = text.parse().map_err(|_| "not a number of days".to_owned())?;
    Ok(Duration::from_hours(u64::from(days) * 24))
}

fn worker(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("unix:").filter(|path| path.starts_with('/'));
    let uri: Option<http::Uri> = text.parse().ok();
    let uri = uri.filter(|uri| {
        uri.scheme_str() == Some("http") && uri.port_u16().is_some() && uri.path() == "/"
    });
    match (path, uri) {
        (Some(_), _) | (_, Some(_)) => Ok(text.to_owned()),
        (None, None) => Err("expected unix:/path/to/socket or http://host:port".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let fits = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !text.is_empty() && text.bytes().all(name),
    };
    if fits { Ok(text.to_owned()) } else { Err("expected a host name without a port".to_owned()) }
}

/// An origin as browsers send it: scheme and host, a port unless it is the default, no path.
fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ']) && rest.is_ascii()
    });
    if text == "*" || plain {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected an origin such as https://chat.example, without a path".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        router: Router,
    }

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        let args = ["sconce", "--worker", "unix:/run/w.sock"].iter().chain(args);
        Cli::try_parse_from(args).map(|cli| cli.router.into())
    }

    #[test]
    fn the_defaults_are_the_configurations() {
        let (typed, meant) = (parse(&[]).unwrap(), Config::default());

        assert_eq!(typed.listen, meant.listen);
        assert_eq!(typed.database, meant.database);
        assert_eq!(typed.auth, AuthMode::Keys);
        assert_eq!(typed.metrics, MetricsAccess::Keys);
        assert_eq!(typed.drain_timeout, meant.drain_timeout);
        assert_eq!(typed.limits.queue_timeout, meant.limits.queue_timeout);
        assert_eq!(typed.responses, meant.responses);
        assert_eq!(typed.batches, meant.batches);
        assert_eq!(typed.file_location, None);
        assert_eq!(typed.files, meant.files);
        assert_eq!(typed.limits.stream_grace, meant.limits.stream_grace);
        assert_eq!(typed.limits.idempotency_window, meant.limits.idempotency_window);
        assert_eq!(typed.workers, ["unix:/run/w.sock"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for args in [
            ["--worker", "unix:relative"],
            ["--worker", "https://host:1"],
            ["--worker", "http://host"],
            ["--cors-origin", "https://chat.example/"],
            ["--cors-origin", "chat.example"],
            ["--allowed-host", "host:80"],
            ["--drain-timeout", "-1"],
            ["--listen", "localhost"],
            ["--max-stop", "17"],
            ["--launcher", "relative"],
            ["--routing-table", "/no/launcher"],
        ] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
        assert!(Cli::try_parse_from(["sconce"]).is_err());
    }

    #[test]
    fn a_launcher_stands_in_for_workers() {
        let args = ["sconce", "--launcher", "unix:/l.sock", "--routing-table", "/t.pb"];
        let config: Config = Cli::try_parse_from(args).unwrap().router.into();

        assert_eq!(config.launcher.as_deref(), Some("unix:/l.sock"));
        assert_eq!(config.routing_table, Some("/t.pb".into()));
        assert!(config.workers.is_empty());
    }
}
