//! Addresses, and sockets bound to them before anything is served. It accepts nothing.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    str::FromStr,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 1_024;
/// The tutorial's port.
const PORT: u16 = 50_005;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    address: SocketAddr,
    /// Whether a machine without this address family does without it.
    optional: bool,
}

impl Listen {
    /// Port 50005 on both loopback addresses. A family that the machine lacks is skipped.
    pub fn loopback() -> Vec<Self> {
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .map(|ip| Self { address: SocketAddr::new(ip, PORT), optional: true })
            .into()
    }
}

impl Listen {
    /// One of the addresses that a name stands for, some of which a machine may lack.
    pub(super) fn if_there(address: SocketAddr) -> Self {
        Self { address, optional: true }
    }

    #[cfg(test)]
    pub(super) fn is_optional(&self) -> bool {
        self.optional
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self { address, optional: false }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl FromStr for Listen {
    type Err = String;

    /// `IP:PORT`, with `[` `]` round an IPv6 address; `:PORT` is every address of the machine, as in Go.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let every = text.strip_prefix(':').map(|port| format!("[::]:{port}"));
        let address = every.as_deref().unwrap_or(text).parse::<SocketAddr>();
        let address = address.map_err(|_| {
            format!(
                "`{text}` is not an address; write IP:PORT, such as 127.0.0.1:{PORT}, [::1]:{PORT} or 0.0.0.0:{PORT}"
            )
        })?;
        Ok(address.into())
    }
}

/// Why a server cannot listen. A retry makes sense once what it names has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another program listens there.
    #[error(
        "cannot listen on {address}: the port is in use; stop the program that has it, or choose another with --listen"
    )]
    InUse {
        /// Where.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// What was given is no address.
    #[error(
        "`{text}` is no address; write IP:PORT or NAME:PORT, such as 127.0.0.1:{PORT}, [::1]:{PORT} or localhost:{PORT}"
    )]
    NotAnAddress {
        /// What was given.
        text: String,
    },
    /// The name of a machine gives no address.
    #[error("cannot find where to listen: `{name}` gives no address: {source}; is the name right?")]
    Name {
        /// The name.
        name: String,
        /// What the name service says.
        source: io::Error,
    },
    /// None of the optional addresses exists on this machine.
    #[error("this machine has none of the addresses {0}; choose one with --listen")]
    NoAddress(String),
}

/// Sockets that listen on `listen`.
///
/// # Errors
/// [`BindError`] for the first address that cannot be had; then none is bound.
pub(crate) fn bind(listen: &[Listen]) -> Result<Vec<TcpListener>, BindError> {
    let mut bound = Vec::new();
    for Listen { address, optional } in listen {
        match bind_one(*address) {
            Ok(listener) => bound.push(listener),
            Err(error) if *optional && is_missing_family(&error) => {
                tracing::debug!("not listening on {address}: {error}");
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(BindError::InUse { address: *address });
            }
            Err(source) => return Err(BindError::Refused { address: *address, source }),
        }
    }
    if bound.is_empty() {
        let tried: Vec<String> = listen.iter().map(Listen::to_string).collect();
        return Err(BindError::NoAddress(tried.join(", ")));
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart does not wait for the last connections of its predecessor. Two servers still cannot share a port.
    socket.set_reuse_address(true)?;
    if let SocketAddr::V6(v6) = address
        && !v6.ip().is_unspecified()
    {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Whether the machine has no such address, as one without IPv6.
fn is_missing_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_people_write_them() {
        for (text, expected) in [
            ("127.0.0.1:50005", Some("127.0.0.1:50005")),
            ("[::1]:0", Some("[::1]:0")),
            (":50005", Some("[::]:50005")),
            ("localhost", None),
            ("127.0.0.1", None),
            ("127.0.0.1:70000", None),
            ("", None),
        ] {
            let parsed = text.parse::<Listen>().ok().map(|listen| listen.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_said() {
        let first = bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = first[0].local_addr().unwrap();
        let error = bind(&[address.into()]).unwrap_err();
        assert!(matches!(error, BindError::InUse { address: at } if at == address), "{error}");
    }
}
