//! Takes connections in, as many as there is room for, until it is told to stop; then waits for
//! the ones that are left.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::Protocol;
use crate::config::{Config, Limits};
use crate::metrics as measure;
use crate::shutdown::{self, Stage};

const BACKLOG: u32 = 4096;
/// Pause after an error that the next `accept` would run into again, such as EMFILE.
const BACK_OFF: Duration = Duration::from_millis(100);
/// How long connections may take to send how their answers end when the time to finish them is over.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Sent to a connection that there is no room for.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 133\r\n\r\n\
    {\"error\":{\"message\":\"the server has too many open connections\",\
    \"type\":\"service_unavailable_error\",\"param\":null,\
    \"code\":\"connections\"}}";

pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A listening socket, and the connections that came from it.
pub(super) struct Acceptor {
    listener: TcpListener,
    protocol: Protocol,
    room: Room,
    /// What a half-open client's unacknowledged bytes may wait for.
    write_timeout: Duration,
    connections: JoinSet<()>,
    /// Tells the connections to end after the request they are at.
    drain: watch::Sender<Stage>,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener, protocol: Protocol, limits: &Limits) -> Self {
        Self {
            listener,
            protocol,
            room: Room::new(limits),
            write_timeout: limits.write_timeout,
            connections: JoinSet::new(),
            drain: watch::Sender::new(Stage::Serve),
        }
    }

    /// Serves connections until the stage asks for the end, and for what else is `unfinished` then. What
    /// takes too long is told to `stop`. Returns how many had to be cut off all the same.
    pub(super) async fn run(
        mut self,
        (config, stage): (&Config, watch::Receiver<Stage>),
        (unfinished, stop): (impl Future<Output = ()>, impl FnOnce()),
    ) -> usize {
        self.accept_until(closing(stage.clone(), config.shutdown_delay)).await;
        drop(self.listener);
        self.drain.send_replace((*stage.borrow()).max(Stage::Drain));

        let finished = async {
            while self.connections.join_next().await.is_some() {}
            unfinished.await;
        };
        end(finished, stop, (config.drain_timeout, stage)).await;
        let num_cut = self.connections.len();
        self.connections.shutdown().await;
        num_cut
    }

    async fn accept_until(&mut self, closing: impl Future<Output = ()>) {
        tokio::pin!(closing);
        loop {
            tokio::select! {
                () = &mut closing => return,
                Some(_) = self.connections.join_next(), if !self.connections.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(error) => back_off(&error).await,
                },
            }
        }
    }

    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(place) = self.room.take(peer.ip()) else {
            measure::connection_refused();
            return refuse(&stream);
        };
        if let Err(error) = configure(&stream, self.write_timeout) {
            // The client is gone already.
            tracing::debug!(%error, "configuring a connection");
            return;
        }
        let protocol = self.protocol.clone();
        let stage = self.drain.subscribe();
        self.connections.spawn(async move {
            protocol.serve(stream, stage).await;
            drop(place);
        });
    }
}

/// Waits until all is finished. After so long, or when the stage asks for it, everything is told to stop
/// and gets a moment to say so.
async fn end(
    finished: impl Future<Output = ()>,
    stop: impl FnOnce(),
    (patience, mut stage): (Duration, watch::Receiver<Stage>),
) {
    let mut finished = pin!(finished);
    let is_finished = tokio::select! {
        in_time = timeout(patience, &mut finished) => in_time.is_ok(),
        () = shutdown::reached(&mut stage, Stage::Stop) => false,
    };
    if !is_finished {
        stop();
        let _ = timeout(LAST_WORDS, finished).await;
    }
}

/// Returns when new connections are no longer wanted: some time after `/ready` has turned, so that
/// load balancers send none any more.
async fn closing(mut stage: watch::Receiver<Stage>, delay: Duration) {
    shutdown::reached(&mut stage, Stage::Drain).await;
    // Stop needs no courtesy, and who has taken the port over sends nobody away.
    let _ = timeout(delay, shutdown::reached(&mut stage, Stage::Handover)).await;
}

fn configure(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // A client that vanished without a word is found even when nothing fills the send buffer.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(write_timeout))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(write_timeout))?;
    Ok(())
}

/// Says why in one packet. The socket's buffer is empty, so this neither waits nor fails, except
/// when the client is gone. What it has sent already is read, or closing would reset the
/// connection and lose the answer.
fn refuse(stream: &TcpStream) {
    let _ = stream.try_write(BUSY);
    let mut scratch = [0; 4096];
    for _ in 0..16 {
        let Ok(1..) = stream.try_read(&mut scratch) else { return };
    }
}

async fn back_off(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return;
    }
    tracing::warn!(%error, "accepting a connection");
    #[expect(clippy::disallowed_methods, reason = "nothing tells when a descriptor is free again")]
    tokio::time::sleep(BACK_OFF).await;
}

/// How many connections there may be, and how many there are.
struct Room {
    max: usize,
    max_per_ip: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// One connection's place. Dropping it frees the place.
struct Place {
    peer: Option<IpAddr>,
    taken: Arc<Mutex<Taken>>,
    gauge: Gauge,
}

impl Room {
    fn new(limits: &Limits) -> Self {
        Self {
            max: limits.max_connections,
            max_per_ip: limits.max_connections_per_ip,
            taken: Arc::default(),
        }
    }

    fn take(&self, ip: IpAddr) -> Option<Place> {
        let peer = peer(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.total >= self.max {
            return None;
        }
        if let Some(peer) = peer {
            let of_peer = taken.by_peer.entry(peer).or_default();
            if *of_peer >= self.max_per_ip {
                return None;
            }
            *of_peer += 1;
        }
        taken.total += 1;
        let gauge = measure::connections();
        gauge.increment(1);
        Some(Place { peer, taken: Arc::clone(&self.taken), gauge })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        self.gauge.decrement(1);
        if let Some(peer) = self.peer
            && let Some(of_peer) = taken.by_peer.get_mut(&peer)
        {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.by_peer.remove(&peer);
            }
        }
    }
}

/// Whom a connection is counted for: an IPv4 address, an IPv6 network of 64 bits, which is what
/// one customer gets, or nobody on loopback, where proxies and load generators live.
fn peer(ip: IpAddr) -> Option<IpAddr> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) => Some(ip.into()),
        IpAddr::V6(ip) => {
            let network = ip.to_bits() >> 64 << 64;
            Some(Ipv6Addr::from_bits(network).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(max_connections: usize, max_connections_per_ip: usize) -> Room {
        Room::new(&Limits { max_connections, max_connections_per_ip, ..Limits::default() })
    }

    #[test]
    fn one_address_gets_its_share_and_no_more() {
        let room = room(10, 2);
        let ip = |last| IpAddr::from([192, 0, 2, last]);

        let first = room.take(ip(1)).unwrap();
        let _second = room.take(ip(1)).unwrap();
        assert!(room.take(ip(1)).is_none());
        assert!(room.take(ip(2)).is_some());

        drop(first);
        assert!(room.take(ip(1)).is_some());
    }

    #[test]
    fn all_together_are_bounded_and_leave_nothing_behind() {
        let room = room(2, 2);
        let places: Vec<_> = (1..=2).map(|last| room.take([192, 0, 2, last].into())).collect();
        assert!(room.take([192, 0, 2, 3].into()).is_none());

        drop(places);

        let taken = room.taken.lock().unwrap();
        assert_eq!((taken.total, taken.by_peer.len()), (0, 0));
    }

    #[test]
    fn loopback_is_not_bounded_per_address_and_ipv6_is_per_network() {
        assert_eq!(peer([127, 0, 0, 1].into()), None);
        assert_eq!(peer("::ffff:127.0.0.1".parse().unwrap()), None);
        let (first, second) = ("2001:db8::1", "2001:db8::ffff:1");
        assert_eq!(peer(first.parse().unwrap()), peer(second.parse().unwrap()));
        assert_ne!(peer(first.parse().unwrap()), peer("2001:db8:0:1::1".parse().unwrap()));
    }

    #[test]
    fn the_answer_for_a_full_server_has_the_length_it_says() {
        let text = std::str::from_utf8(BUSY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();

        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"].is_object());
    }
}
