//! Accepts connections and hands each to the worker that has the fewest. It knows sockets, not what is said on them.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use rustix::io::Errno;
use socket2::SockRef;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{TransportLimits, Worker};

/// How long to leave a machine alone that has no more file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts from `listener` until `stop`.
///
/// # Errors
/// Where the listener itself is unusable.
pub(crate) async fn accept(
    listener: TcpListener,
    workers: Arc<[Worker]>,
    places: Arc<Semaphore>,
    limits: TransportLimits,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut exhausted_before = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = async {
                let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                listener.accept().await.map(|(socket, peer)| (socket, peer, place))
            } => accepted,
        };
        let (socket, peer, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_exhausted(&error) => {
                if !exhausted_before {
                    tracing::error!("cannot accept connections: {error}; trying again every {EXHAUSTED_PAUSE:?}");
                }
                exhausted_before = true;
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
            // The peer was gone before it was accepted, and the like (accept(2), Error handling).
            Err(error) => {
                tracing::debug!("a connection was lost before it was accepted: {error}");
                continue;
            }
        };
        exhausted_before = false;
        if let Err(error) = prepare(&socket, &limits) {
            tracing::debug!("{peer}: cannot set socket options: {error}");
        }
        let worker = workers.iter().min_by_key(|worker| worker.connections()).expect("there is a worker");
        if let Err(error) = worker.hand_over(socket, place).await {
            tracing::debug!("{peer}: {error}");
        }
    }
}

fn prepare(socket: &tokio::net::TcpStream, limits: &TransportLimits) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_notsent_lowat(limits.unsent_bytes)?;
        socket.set_tcp_user_timeout(Some(limits.keepalive_every + limits.keepalive_time))?;
    }
    Ok(())
}

fn is_exhausted(error: &io::Error) -> bool {
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
