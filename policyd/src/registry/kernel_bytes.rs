//! The kernel's byte counts of a TCP socket, for connections that the switch no longer counts: one exact question
//! (addresses and cookie) by INET_DIAG. The kernel answers within the send, so nothing here ever waits.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::message::SockDiagMessage;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use tandem_protocol::IpFamily;
use tandem_protocol::registry::Identity;

/// For an identity whose cookie is not known (INET_DIAG_NOCOOKIE).
pub const ANY_COOKIE: u64 = u64::MAX;

pub struct Kernel {
    socket: Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpBytes {
    /// Taken from the application, whether or not acknowledged yet.
    pub tx: u64,
    /// Given to the application.
    pub rx: u64,
}

impl Kernel {
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket })
    }

    /// `Ok(None)`: there is no such socket any more.
    pub fn bytes(&self, identity: &Identity) -> io::Result<Option<TcpBytes>> {
        let Some(answer) = self.ask(identity)? else { return Ok(None) };
        let info = answer.nlas.iter().find_map(|nla| match nla {
            Nla::TcpInfo(info) => Some(info),
            _ => None,
        });
        let Some(info) = info else { return Err(io::ErrorKind::Unsupported.into()) };
        let syn = u64::from(identity.connected);
        let tx = info.bytes_acked.saturating_sub(syn).saturating_add(answer.header.send_queue.into());
        let rx = info.bytes_received.saturating_sub(answer.header.recv_queue.into());
        Ok(Some(TcpBytes { tx, rx }))
    }

    fn ask(&self, identity: &Identity) -> io::Result<Option<InetResponse>> {
        let addresses = identity.addresses;
        let (local, remote) = (addresses.local_address(), addresses.remote_address());
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let request = InetRequest {
            family: if addresses.family == IpFamily::V4 { AF_INET } else { AF_INET6 },
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: local.port(),
                destination_port: remote.port(),
                source_address: local.ip(),
                destination_address: remote.ip(),
                interface_id: 0,
                cookie: identity.cookie.to_ne_bytes(),
            },
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut packet = vec![0; message.buffer_len()];
        message.serialize(&mut packet);
        self.socket.send(&packet, 0)?;

        let mut reply = [0u8; 4096];
        let length = self.socket.recv(&mut &mut reply[..], libc::MSG_DONTWAIT)?;
        let reply = reply.get(..length).unwrap_or_default();
        let reply = <NetlinkMessage<SockDiagMessage>>::deserialize(reply).map_err(io::Error::other)?;
        match reply.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => Ok(Some(*response)),
            NetlinkPayload::Error(error) => match error.raw_code().abs() {
                libc::ENOENT | libc::ESTALE => Ok(None),
                code => Err(io::Error::from_raw_os_error(code)),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use tandem_protocol::Addresses;

    fn identity(stream: &TcpStream, connected: bool) -> Identity {
        let addresses = Addresses::new(stream.local_addr().unwrap(), stream.peer_addr().unwrap()).unwrap();
        let cookie = crate::kernel::facts(stream.try_clone().unwrap().into()).unwrap().cookie;
        Identity { pid: 0, addresses, cookie, connected }
    }

    fn counts(at: &str) {
        let listener = TcpListener::bind(at).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[1; 1_000]).unwrap();
        server.write_all(&[2; 70]).unwrap();
        server.read_exact(&mut [0; 600]).unwrap();
        let kernel = Kernel::new().unwrap();
        let one = identity(&client, true);
        assert_eq!(kernel.bytes(&one).unwrap(), Some(TcpBytes { tx: 1_000, rx: 0 }));
        let other = identity(&server, false);
        assert_eq!(kernel.bytes(&other).unwrap(), Some(TcpBytes { tx: 70, rx: 600 }));
        assert_eq!(kernel.bytes(&Identity { cookie: ANY_COOKIE, ..one }).unwrap(), Some(TcpBytes { tx: 1_000, rx: 0 }));
        let stale = Identity { cookie: one.cookie + 1_000_000, ..one };
        assert_eq!(kernel.bytes(&stale).unwrap(), None, "another cookie is another socket");
    }

    #[test]
    fn exactly_what_the_application_gave_and_got() {
        counts("127.0.0.1:0");
        counts("[::1]:0");
    }
}
