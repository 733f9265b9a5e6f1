//! Where to listen, as it may be written in a program: as text, as an address, as a pair with a port. It knows how each
//! is read, and which addresses a name stands for; it binds nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{BindError, Listen};

/// Where a server can be told to listen by [`Builder::serve`](crate::Builder::serve).
///
/// | written as | meaning |
/// |---|---|
/// | `"127.0.0.1:50005"`, `"[::1]:50005"` | this address |
/// | `":50005"` | this port of every address of the machine, as in Go |
/// | `"localhost:50005"` | this port of all addresses that the name stands for |
/// | `("127.0.0.1", 50005)`, `([127, 0, 0, 1], 50005)`, `(Ipv6Addr::LOCALHOST, 50005)` | address and port, or name and port |
/// | a [`SocketAddr`] | this address |
/// | a [`Listen`], or several | as it says; [`Listen::loopback`] is the default of a server that is told nothing |
///
/// Port 0 is a free one of the system's choice. Who wants to know which takes [`Builder::bind`](crate::Builder::bind) and
/// [`Server::addresses`](crate::Server::addresses) instead.
///
/// It is implemented for these types, and cannot be for others.
pub trait IntoListen: sealed::Place {}

impl<P: sealed::Place> IntoListen for P {}

pub(crate) mod sealed {
    use super::Written;

    /// How a place is taken apart. Private, so that other ways can be added.
    pub trait Place {
        /// Says what is meant.
        fn written(self) -> Written;
    }
}

/// A place as it was written.
#[derive(Debug)]
pub enum Written {
    /// Nothing has to be looked up.
    Known(Vec<Listen>),
    /// A text, which may have a name in it.
    Text(String),
}

impl Written {
    /// The addresses that are meant. A name is asked for on a thread that may block.
    ///
    /// # Errors
    /// [`BindError::NotAnAddress`], [`BindError::Name`].
    pub(crate) async fn resolve(self) -> Result<Vec<Listen>, BindError> {
        let text = match self {
            Self::Known(listen) => return Ok(listen),
            Self::Text(text) => text,
        };
        if let Ok(listen) = text.parse() {
            return Ok(vec![listen]);
        }
        let Some((name, port)) = name_and_port(&text) else { return Err(BindError::NotAnAddress { text }) };
        let failed = |source| BindError::Name { name: name.to_owned(), source };
        let found = tokio::net::lookup_host((name, port)).await.map_err(failed)?;
        let mut listen: Vec<Listen> = Vec::new();
        for address in found.map(Listen::if_there) {
            // A hosts file may say the same twice.
            if !listen.contains(&address) {
                listen.push(address);
            }
        }
        Ok(listen)
    }
}

/// The parts of `NAME:PORT`. A name is what can be one (RFC 1123 §2.1, and the underscore that people use): a URL is none.
fn name_and_port(text: &str) -> Option<(&str, u16)> {
    let (name, port) = text.rsplit_once(':')?;
    let may_be_a_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if name.is_empty() || !may_be_a_name {
        return None;
    }
    Some((name, port.parse().ok()?))
}

macro_rules! places {
    ($($type:ty, $place:ident => $written:expr;)*) => {$(
        impl sealed::Place for $type {
            fn written(self) -> Written {
                let $place = self;
                $written
            }
        }
    )*};
}

fn known(address: impl Into<SocketAddr>) -> Written {
    Written::Known(vec![Listen::from(address.into())])
}

fn pair(host: &str, port: u16) -> Written {
    host.parse::<IpAddr>().map_or_else(|_| Written::Text(format!("{host}:{port}")), |ip| known((ip, port)))
}

places! {
    &str, text => Written::Text(text.to_owned());
    String, text => Written::Text(text);
    &String, text => Written::Text(text.clone());
    SocketAddr, address => known(address);
    SocketAddrV4, address => known(address);
    SocketAddrV6, address => known(address);
    (IpAddr, u16), address => known(address);
    (Ipv4Addr, u16), address => known(address);
    (Ipv6Addr, u16), address => known(address);
    ([u8; 4], u16), address => known(address);
    ([u16; 8], u16), address => known(address);
    (&str, u16), address => pair(address.0, address.1);
    (String, u16), address => pair(&address.0, address.1);
    Listen, listen => Written::Known(vec![listen]);
    Vec<Listen>, listen => Written::Known(listen);
    &[SocketAddr], addresses => Written::Known(addresses.iter().copied().map(Listen::from).collect());
}

impl<const N: usize> sealed::Place for [Listen; N] {
    fn written(self) -> Written {
        Written::Known(self.into())
    }
}

#[cfg(test)]
mod tests {
    use super::{sealed::Place, *};

    async fn resolved(place: impl Place) -> Vec<String> {
        let listen = place.written().resolve().await.unwrap();
        listen.iter().map(Listen::to_string).collect()
    }

    #[tokio::test]
    async fn a_place_may_be_written_as_people_write_it() {
        let v4: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let v6: SocketAddr = "[::1]:7".parse().unwrap();
        for written in [
            resolved("127.0.0.1:7").await,
            resolved("127.0.0.1:7".to_owned()).await,
            resolved(&"127.0.0.1:7".to_owned()).await,
            resolved(v4).await,
            resolved((Ipv4Addr::LOCALHOST, 7)).await,
            resolved((IpAddr::V4(Ipv4Addr::LOCALHOST), 7)).await,
            resolved(([127, 0, 0, 1], 7)).await,
            resolved(("127.0.0.1", 7)).await,
            resolved(("127.0.0.1".to_owned(), 7)).await,
            resolved(Listen::from(v4)).await,
            resolved(&[v4][..]).await,
        ] {
            assert_eq!(written, ["127.0.0.1:7"]);
        }
        for written in [
            resolved("[::1]:7").await,
            resolved(v6).await,
            resolved((Ipv6Addr::LOCALHOST, 7)).await,
            resolved(("::1", 7)).await,
        ] {
            assert_eq!(written, ["[::1]:7"]);
        }
        assert_eq!(resolved(":7").await, ["[::]:7"]);
        assert_eq!(resolved([v4.into(), v6.into()]).await, ["127.0.0.1:7", "[::1]:7"]);
        assert_eq!(resolved(Listen::loopback()).await, ["127.0.0.1:50005", "[::1]:50005"]);
    }

    #[tokio::test]
    async fn a_name_stands_for_its_addresses_each_of_which_a_machine_may_lack() {
        for listen in [resolved("localhost:7").await, resolved(("localhost", 7)).await] {
            assert!(!listen.is_empty());
            assert!(listen.iter().all(|at| at == "127.0.0.1:7" || at == "[::1]:7"), "{listen:?}");
        }
        let listen = "localhost:7".written().resolve().await.unwrap();
        assert!(listen.iter().all(Listen::is_optional));
    }

    #[tokio::test]
    async fn what_is_no_place_is_refused_with_what_was_written() {
        for text in [
            "",
            "localhost",
            "127.0.0.1",
            "127.0.0.1:70000",
            "127.0.0.1:",
            "::1",
            "localhost:http",
            "http://127.0.0.1:50005",
            "a b:7",
        ] {
            let error = text.written().resolve().await.unwrap_err();
            assert!(matches!(&error, BindError::NotAnAddress { text: told } if told == text), "{text:?}: {error}");
        }
        let error = ("a b", 7).written().resolve().await.unwrap_err();
        assert!(error.to_string().starts_with("`a b:7` is no address"), "{error}");
        // RFC 6761 §6.4: never resolved.
        let error = "nobody.invalid:7".written().resolve().await.unwrap_err();
        assert!(matches!(&error, BindError::Name { name, .. } if name == "nobody.invalid"), "{error}");
    }
}
