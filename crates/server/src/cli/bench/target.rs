//! What is measured, by its address: a gRPC server, or the raw TCP floor. It opens sockets, and knows nothing of what
//! goes over them.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    str::FromStr,
    time::Duration,
};

use outflow_client::Address;
use socket2::{Domain, SockAddr, Socket, Type};

/// A server that does not answer for longer is not there.
pub(super) const CONNECTING_MAX: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(super) struct Target {
    name: String,
    address: Address,
    pub(super) protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// The framed request, then framed responses until the server closes.
    Tcp,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, address) = match text.strip_prefix("tcp://") {
            Some(address) if address.contains("://") || address.starts_with("unix:") => {
                return Err("behind tcp:// stands host:port".into());
            }
            Some(address) => (Protocol::Tcp, address),
            None => (Protocol::Grpc, text),
        };
        Ok(Self { name: text.to_owned(), address: Address::parse(address)?, protocol })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Target {
    /// What the server is called in requests.
    pub(super) fn authority(&self) -> String {
        self.address.authority().to_string()
    }

    /// Where it can be reached, in the order in which that is tried.
    pub(super) fn resolve(&self) -> io::Result<Vec<SockAddr>> {
        match &self.address {
            Address::Tcp { host, port } => {
                let addresses = (host.as_str(), *port).to_socket_addrs()?;
                Ok(addresses.map(|address: SocketAddr| address.into()).collect())
            }
            Address::Unix(path) => Ok(vec![SockAddr::unix(path)?]),
        }
    }
}

/// A connection to the first of `addresses` that takes one.
pub(super) fn connect(addresses: &[SockAddr]) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match connect_to(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(i32::from(address.family())), Type::STREAM, None)?;
    socket.connect_timeout(address, CONNECTING_MAX)?;
    if !address.is_unix() {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_people_write_them() {
        for (text, protocol, authority) in [
            ("http://127.0.0.1:50005", Protocol::Grpc, "127.0.0.1:50005"),
            ("127.0.0.1:1", Protocol::Grpc, "127.0.0.1:1"),
            ("unix:/tmp/socket", Protocol::Grpc, "localhost"),
            ("tcp://127.0.0.1:7", Protocol::Tcp, "127.0.0.1:7"),
            ("tcp://[::1]:7", Protocol::Tcp, "[::1]:7"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.protocol, &*target.authority()), (protocol, authority));
            assert_eq!(target.to_string(), text);
        }
        for bad in ["", "tcp://", "tcp://http://host:1", "tcp://unix:/path", "ftp://host:1", "host:0"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
