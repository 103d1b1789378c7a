//! Tells a service manager how this process is, by systemd's protocol: datagrams of `NAME=value` lines
//! to the socket that `NOTIFY_SOCKET` names.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixDatagram;

/// A service manager that wants to be told.
#[derive(Debug)]
pub(super) struct Notifier {
    socket: OsString,
}

impl Notifier {
    /// `None`: nobody wants to be told.
    pub(super) fn from_env() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        Some(Self { socket })
    }

    /// It can be used.
    pub(super) fn ready(&self) {
        self.say("READY=1\nSTATUS=serving");
    }

    /// It drains.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    /// It starts itself again, and will say when it can be used.
    pub(super) fn reloading(&self) {
        self.say("RELOADING=1\nSTATUS=starting again");
    }

    fn say(&self, text: &str) {
        if let Err(error) = send(&self.socket, text.as_bytes()) {
            tracing::warn!(%error, "could not tell the service manager");
        }
    }
}

#[cfg(target_os = "linux")]
fn send(socket: &OsStr, text: &[u8]) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text, &address).map(drop)
}

#[cfg(not(target_os = "linux"))]
fn send(socket: &OsStr, text: &[u8]) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(text, socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_told_at_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { socket: path.into() };
        let read = || {
            let mut bytes = [0; 200];
            let length = manager.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };

        notifier.ready();
        assert!(read().starts_with("READY=1\n"));
        notifier.reloading();
        assert!(read().starts_with("RELOADING=1\n"));
    }
}
