//! Servers on the far hosts that tell a client which address they see.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use tandem_tests::namespace::Namespace;

use crate::network::inside;

/// Says the address and closes. Unconnected clients ask by UDP on the next port.
pub const TCP: u16 = 5000;
pub const UDP: u16 = 5001;
pub const HTTP: u16 = 8080;
pub const DNS: u16 = 5353;
/// Where a resolver asks.
const NAMES: u16 = 53;

/// They serve as long as the test program runs.
pub fn serve(namespace: &Namespace) {
    let (tcp, http, udp, names) = inside(namespace, || {
        let stream = |port| TcpListener::bind(("::", port)).expect("bind");
        let datagram = |port| UdpSocket::bind(("::", port)).expect("bind");
        (stream(TCP), stream(HTTP), datagram(UDP), [datagram(DNS), datagram(NAMES)])
    });
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            let _ = stream.write_all(seen(peer).as_bytes());
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = http.accept() {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let body = format!("{}\n", seen(peer));
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    thread::spawn(move || {
        let mut message = [0; 2048];
        while let Ok((_, peer)) = udp.recv_from(&mut message) {
            let _ = udp.send_to(seen(peer).as_bytes(), peer);
        }
    });
    for names in names {
        thread::spawn(move || {
            let mut message = [0; 2048];
            while let Ok((length, peer)) = names.recv_from(&mut message) {
                if let Some(answer) = name_answer(&message[..length], peer.ip().to_canonical()) {
                    let _ = names.send_to(&answer, peer);
                }
            }
        });
    }
}

fn seen(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

/// The asker's own address: as it is to a question for an IPv4 address, else as a TXT record.
fn name_answer(query: &[u8], peer: IpAddr) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(12..end + 5)?;
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend(question);
    let asks_for_v4 = question.ends_with(&[0, 1, 0, 1]);
    if let (IpAddr::V4(v4), true) = (peer, asks_for_v4) {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(v4.octets());
    } else {
        let text = peer.to_string();
        answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 0, 0, text.len() as u8 + 1, text.len() as u8]);
        answer.extend(text.as_bytes());
    }
    Some(answer)
}
