//! One router takes the port over from another: the listening socket itself goes from process to
//! process, so that no connection is refused or lost in between.
//!
//! Whoever serves offers its socket at a path. A successor connects there, gets the descriptor, waits
//! until its workers are ready, and says that it accepts: a byte. Only then does the predecessor stop
//! accepting, and the successor offers the socket in its turn. Should it fail before, nothing has
//! happened.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::shutdown::Stage;

/// How long a predecessor may take to give its socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a successor may take until it accepts.
const MAX_PREPARATION: Duration = Duration::from_secs(60);

/// A socket that another process has given, and the way to tell it that it may go.
pub(super) struct Taken {
    pub(super) listener: TcpListener,
    predecessor: UnixStream,
}

/// Where this process offers its socket.
pub(super) struct Offer {
    listener: UnixListener,
    socket: OwnedFd,
}

/// Takes the socket that is offered at `path`; none when nobody offers one. Blocks for a moment.
pub(super) fn take(path: &Path, address: SocketAddr) -> io::Result<Option<Taken>> {
    let predecessor = match UnixStream::connect(path) {
        Ok(predecessor) => predecessor,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => return Err(error),
        },
    };
    predecessor.set_read_timeout(Some(PATIENCE))?;
    let listener = TcpListener::from(receive(&predecessor)?);
    let taken = listener.local_addr()?;
    // Port 0 is any.
    let is_wanted = taken.ip() == address.ip() && [0, taken.port()].contains(&address.port());
    if !is_wanted {
        let message = format!("the router that is running listens on {taken}, not on {address}");
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
    }
    listener.set_nonblocking(true)?;
    Ok(Some(Taken { listener, predecessor }))
}

impl Taken {
    /// Tells the predecessor that this process accepts connections now.
    pub(super) fn accepted(mut self) -> io::Result<()> {
        self.predecessor.write_all(&[1])
    }
}

impl Offer {
    /// Offers a listening socket at `path`, in place of whoever does now.
    pub(super) fn new(path: &Path, socket: OwnedFd) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let temporary = Path::new(&name);
        let _ = std::fs::remove_file(temporary);
        let listener = UnixListener::bind(temporary)?;
        std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(temporary, path)?;
        Ok(Self { listener, socket })
    }

    /// Gives the socket to whoever asks, until one of them accepts connections: then the stage is
    /// [`Stage::Handover`].
    pub(super) async fn give(self, stage: Arc<watch::Sender<Stage>>) {
        let listener = match tokio::net::UnixListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the port can't be offered"),
        };
        loop {
            let given = match listener.accept().await {
                Ok((successor, _)) => give(successor, &self.socket).await,
                Err(error) => Err(error),
            };
            match given {
                Ok(()) => {
                    tracing::info!("another router has taken the port over");
                    stage.send_if_modified(|stage| reach(stage, Stage::Handover));
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "a router asked for the port and did not take it");
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "nothing tells when it goes again"
                    )]
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Moves a stage on, never back. Whether it moved.
pub(super) fn reach(stage: &mut Stage, to: Stage) -> bool {
    let is_later = to > *stage;
    *stage = to.max(*stage);
    is_later
}

/// Gives the socket, and returns once the successor accepts connections.
async fn give(mut successor: tokio::net::UnixStream, socket: &OwnedFd) -> io::Result<()> {
    // The file's mode says the same, where the system heeds it.
    if successor.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
    }
    send(&successor, socket)?;
    let mut byte = [0];
    let accepts = timeout(MAX_PREPARATION, successor.read_exact(&mut byte)).await;
    accepts.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(drop)
}

fn send(successor: impl AsFd, socket: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other("a descriptor does not fit into its message"));
    }
    sendmsg(successor, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(predecessor: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(predecessor, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let socket = sockets.flatten().next();
    socket.ok_or_else(|| io::Error::other("the router that is running gave no socket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_offers_anything_where_nothing_is_or_was_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("takeover.sock");
        let address = ([127, 0, 0, 1], 0).into();
        assert!(take(&path, address).unwrap().is_none());

        drop(UnixListener::bind(&path).unwrap());

        assert!(take(&path, address).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_socket_is_given_and_the_giver_goes_when_it_is_accepted_from() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("takeover.sock");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let offer = Offer::new(&path, listener.into()).unwrap();
        let stage = Arc::new(watch::Sender::new(Stage::Serve));
        let giving = tokio::spawn(offer.give(Arc::clone(&stage)));
        let take = move |path: std::path::PathBuf, address| {
            tokio::task::spawn_blocking(move || take(&path, address))
        };

        let other = ([127, 0, 0, 1], address.port() ^ 1).into();
        let wrong = take(path.clone(), other).await.unwrap().err().unwrap();
        assert!(wrong.to_string().contains(&address.to_string()), "{wrong}");
        let given_up = take(path.clone(), address).await.unwrap().unwrap().unwrap();
        drop(given_up);
        assert_eq!(*stage.borrow(), Stage::Serve);
        let taken = take(path, address).await.unwrap().unwrap().unwrap();
        assert_eq!(taken.listener.local_addr().unwrap(), address);
        taken.accepted().unwrap();

        timeout(Duration::from_secs(20), giving).await.unwrap().unwrap();
        assert_eq!(*stage.borrow(), Stage::Handover);
    }

    #[test]
    fn stages_are_never_gone_back_to() {
        let mut stage = Stage::Handover;
        assert!(!reach(&mut stage, Stage::Drain));
        assert_eq!(stage, Stage::Handover);
        assert!(reach(&mut stage, Stage::Stop));
    }
}
