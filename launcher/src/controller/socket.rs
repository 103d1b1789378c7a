//! The launcher's socket: calls come in here, from this user's processes and root's alone.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sconce_proto::fleet::fleet_server::FleetServer;
use sconce_proto::fleet::launcher_server::LauncherServer;
use sconce_proto::fleet::routing_server::RoutingServer;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::AbortOnDropHandle;

use super::Handle;
use super::service::{Service, SharedRouters};
use crate::store::files::remove_if_exists;

/// Takes calls until it is dropped.
pub(super) struct Server {
    _task: AbortOnDropHandle<()>,
}

impl Server {
    /// Takes calls on a socket, in a directory that only this user can enter.
    pub(super) fn start(
        socket: &Path,
        handle: Handle,
        routers: SharedRouters,
    ) -> std::io::Result<Self> {
        // Of a launcher that was killed: this one holds the server's lock.
        remove_if_exists(socket)?;
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
        let incoming = UnixListenerStream::new(listener).filter(is_same_user);
        let service = Service::new(handle, routers);
        let server = tonic::transport::Server::builder()
            .add_service(RoutingServer::new(service.clone()))
            .add_service(LauncherServer::new(service.clone()))
            .add_service(FleetServer::new(service))
            .serve_with_incoming(incoming);
        let task = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "no more calls can be taken");
            }
        });
        Ok(Self { _task: AbortOnDropHandle::new(task) })
    }
}

fn is_same_user(stream: &std::io::Result<UnixStream>) -> bool {
    let Ok(stream) = stream else { return true };
    let own = rustix::process::geteuid().as_raw();
    let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
    if !allowed {
        tracing::warn!("another user's process was turned away");
    }
    allowed
}
