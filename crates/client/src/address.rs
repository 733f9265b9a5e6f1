//! Where a server listens, as a person writes it.
//!
//! Owns: the forms of an address, and what is wrong with one that has none of them. Must not know: sockets, TLS,
//! HTTP beyond the authority.

use std::{fmt, path::PathBuf};

use http::uri;

/// The tutorial's port, and Outflow's.
const PORT: u16 = 50005;

/// Where a server listens: what [`Client::connect`](crate::Client::connect) takes, for who connects by other means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp {
        /// By name or number, without brackets.
        host: String,
        /// From 1.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Parses `http://host:port`, `host:port`, `host`, `:port` or `unix:/path`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC's naming allows `unix:path` and `unix:///absolute`.
            let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
            return match path {
                "" => Err("it names no socket"),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let authority = match text.split_once("://") {
            Some(("http", authority)) => authority,
            Some(("https", _)) => return Err("this client does not speak TLS yet"),
            Some(_) => return Err("it has a scheme that is not http"),
            None => text,
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = split(authority)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => Some(PORT),
        };
        let port = port.ok_or("its port is no number from 1 to 65535")?;
        let host = match host {
            "" => "localhost",
            host => host,
        };
        let address = Self::Tcp { host: host.to_owned(), port };
        match uri::Authority::try_from(address.to_string()) {
            Ok(authority) if !authority.as_str().contains('@') => Ok(address),
            _ => Err("its host is no name and no number"),
        }
    }

    /// What the server is called in `:authority`. A Unix socket has no host; a path there is refused by many servers.
    pub fn authority(&self) -> uri::Authority {
        match self {
            Self::Tcp { .. } => uri::Authority::try_from(self.to_string()).expect("checked when parsed"),
            Self::Unix(_) => uri::Authority::from_static("localhost"),
        }
    }
}

/// Host without brackets, and port.
fn split(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']').ok_or("its bracket is not closed")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("what stands in brackets is no IPv6 address");
        }
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if port.is_empty() => Ok((host, None)),
            None => Err("after the bracket only a port may follow"),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("an IPv6 address stands in brackets"),
        Some((host, port)) => Ok((host, Some(port))),
        None if authority.is_empty() => Err("it is empty"),
        None => Ok((authority, None)),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expected) in [
            ("http://127.0.0.1:50005", "127.0.0.1:50005"),
            ("http://example.org:80/", "example.org:80"),
            ("example.org:1", "example.org:1"),
            ("http://example.org", "example.org:50005"),
            ("example.org", "example.org:50005"),
            (":4000", "localhost:4000"),
            ("http://:4000", "localhost:4000"),
            ("[::1]:7", "[::1]:7"),
            ("http://[::1]", "[::1]:50005"),
            ("unix:/run/o.sock", "unix:/run/o.sock"),
            ("unix:///run/o.sock", "unix:/run/o.sock"),
            ("unix:o.sock", "unix:o.sock"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(Address::parse("[::1]:7").unwrap().authority(), "[::1]:7");
        assert_eq!(Address::parse("unix:/run/o.sock").unwrap().authority(), "localhost");
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        for (text, why) in [
            ("", "empty"),
            ("http://", "empty"),
            ("unix:", "no socket"),
            ("https://example.org", "TLS"),
            ("ftp://example.org", "scheme"),
            ("host:0", "port"),
            ("host:65536", "port"),
            ("host:", "port"),
            ("host:1/path", "port"),
            ("host/path", "host"),
            ("user@host:1", "host"),
            ("a b:1", "host"),
            ("::1", "brackets"),
            ("::1:50005", "brackets"),
            ("[::1", "closed"),
            ("[x]:1", "IPv6"),
            ("[::1]1", "bracket"),
        ] {
            let told = Address::parse(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
