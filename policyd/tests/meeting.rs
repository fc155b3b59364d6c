//! Two switches meet at a real policyd over real TCP connections, and those that must not, don't.

mod switch;

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use memmap2::MmapOptions;
use nix::sys::socket::{setsockopt, sockopt};
use switch::*;
use tandem_protocol::board::Board;
use tandem_protocol::message::{Meet, SlotRef};
use tandem_protocol::{Message, Reason, pair};

#[test]
fn both_ends_get_the_companion_and_what_belongs_to_it() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    let mail = one.mail();
    one.meet(1, &client);
    other.meet(2, &server);
    let (mine, theirs) = (one.companion(), other.companion());
    assert_eq!((mine.slot.slot, theirs.slot.slot), (1, 2));
    assert_eq!((mine.companion.role, theirs.companion.role), (0, 1));
    assert_eq!(mine.companion.id, theirs.companion.id);
    assert_eq!((mine.companion.pair, mine.companion.conn), (theirs.companion.pair, theirs.companion.conn));
    assert_eq!(mine.peer_pid, std::process::id());
    eventually("mail is counted", || one.mail() == mail + 1);

    // The memory is one and the same, of the right size, and fixed.
    let maps = [&mine, &theirs].map(|end| MmapOptions::new().len(pair::BYTES).map_raw(&end.fds[0]).unwrap());
    assert_eq!(nix::sys::stat::fstat(&mine.fds[0]).unwrap().st_size, pair::BYTES as i64);
    assert!(nix::unistd::ftruncate(&mine.fds[0], 0).is_err());
    let at = pair::big_ring_offset(1, pair::BIG_RINGS - 1).unwrap();
    // SAFETY: inside both mappings, which nobody else touches.
    unsafe {
        maps[0].as_mut_ptr().add(at).write(42);
        assert_eq!(maps[1].as_ptr().add(at).read(), 42);
    }
    // The peer's board can be read and not written.
    assert!(MmapOptions::new().len(Board::BYTES).map_raw_read_only(&mine.fds[1]).is_ok());
    assert!(MmapOptions::new().len(Board::BYTES).map_raw(&mine.fds[1]).is_err());
    // The peer's wake is the peer's.
    nix::unistd::write(&mine.fds[2], &1u64.to_ne_bytes()).unwrap();
    assert_eq!(other.wake.read().unwrap(), 1);
    // The channel leads from one to the other.
    send_raw(&mine.fds[3], b"hello", &[]).unwrap();
    let mut word = [0; 5];
    nix::unistd::read(&theirs.fds[3], &mut word).unwrap();
    assert_eq!(&word, b"hello");
    assert_eq!(policyd.status().pairs, 1);
}

#[test]
fn a_conn_is_used_again_when_both_have_let_go() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let listener = listener();
    let mut held = Vec::new();
    let mut companion = |slot| {
        let (client, server) = connection(&listener);
        other.meet(slot, &server);
        one.meet(slot, &client);
        held.push((client, server));
        (one.companion(), other.companion())
    };
    let first = companion(1);
    assert_eq!((first.0.fds.len(), first.1.fds.len()), (4, 4));
    let second = companion(2);
    assert_eq!((second.0.fds.len(), second.1.fds.len()), (0, 0), "they have it all already");
    assert_eq!((first.0.companion.conn, second.0.companion.conn), (0, 1));

    one.send(&Message::Released(first.0.companion), &[]);
    one.assert_quiet();
    assert_eq!(companion(3).0.companion.conn, 2, "one end still has conn 0");
    other.send(&Message::Released(first.1.companion), &[]);
    other.assert_quiet();
    assert_eq!(companion(4).0.companion.conn, 0);
}

#[test]
fn a_mapped_v6_end_meets_a_v4_end_and_v6_meets_v6() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let dual = TcpListener::bind("[::]:0").unwrap();
    let client = TcpStream::connect(("127.0.0.1", dual.local_addr().unwrap().port())).unwrap();
    let server = dual.accept().unwrap().0;
    assert!(server.local_addr().unwrap().is_ipv6());
    one.meet(1, &client);
    other.meet(1, &server);
    assert_eq!(one.companion().companion.id, other.companion().companion.id);

    let (client, server) = connection(&TcpListener::bind("[::1]:0").unwrap());
    one.meet(2, &client);
    other.meet(2, &server);
    assert_eq!(one.companion().companion.id, other.companion().companion.id);
}

#[test]
fn a_process_meets_itself() {
    let policyd = Policyd::start(&[]);
    let one = Switch::connect(&policyd.socket);
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    one.meet(2, &server);
    let (first, second) = (one.companion(), one.companion());
    assert_eq!((first.companion.role, second.companion.role), (0, 1));
    assert_eq!((first.fds.len(), second.fds.len()), (4, 4));
    assert_eq!(first.companion.id, second.companion.id);
}

/// From an address that no other test uses, with SO_REUSEADDR, so that the same addresses can come again at once.
fn connect_from(port: u16, to: &TcpListener) -> (TcpStream, TcpStream) {
    use nix::sys::socket::*;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 8, port)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, to.local_addr().unwrap().port())).unwrap();
    (socket.into(), to.accept().unwrap().0)
}

/// So that closing resets, and leaves no TIME_WAIT behind.
fn abortive(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

#[test]
fn a_stale_claim_of_the_same_addresses_is_never_matched() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let listener = listener();
    let (old_client, old_server) = connect_from(0, &listener);
    let port = old_client.local_addr().unwrap().port();
    one.meet(1, &old_client);
    one.assert_quiet();
    abortive(&old_client);
    let number = old_client.as_raw_fd();
    drop((old_client, old_server));

    // The very same addresses, and as it may happen the very same descriptor.
    let (client, server) = connect_from(port, &listener);
    other.meet(2, &server);
    let (slot, reason) = one.refused();
    assert_eq!(slot, 1);
    let expected = if client.as_raw_fd() == number { Reason::CookieMismatch } else { Reason::Closed };
    assert!(reason == expected || reason == Reason::CookieMismatch, "{reason}");
    other.assert_quiet();
    // The true other end is matched.
    one.meet(3, &client);
    assert_eq!(one.companion().companion.id, other.companion().companion.id);
}

/// The switch closes the socket, and something else may stand under its number in the next moment.
#[test]
fn a_withdrawn_claim_is_not_looked_at() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    one.assert_quiet();
    one.registry().withdraw(SlotRef { slot: 1, generation: 1 });
    other.meet(2, &server);
    assert_eq!(one.refused(), (1, Reason::Closed));
    other.assert_quiet();
    // Nor one that no switch has put in its registry.
    let mut packet = [0; tandem_protocol::MAX_MESSAGE];
    let length = Message::Meet(claim(3, &client)).encode(&mut packet);
    send_raw(&one.channel, &packet[..length], &[]).unwrap();
    assert_eq!(one.refused(), (3, Reason::Closed));
    // The same connection asks again.
    one.meet(4, &client);
    assert_eq!(one.companion().companion.id, other.companion().companion.id);
    for (switch, slot) in [(&one, 4), (&other, 2)] {
        assert!(
            !switch.registry().is_examined(SlotRef { slot, generation: 1 }),
            "the copy is closed before the answer"
        );
    }
}

#[test]
fn lies_are_refused_and_cost_the_liar_alone() {
    let policyd = Policyd::start(&[]);
    let (one, liar) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    let (stranger, _far) = connection(&listener());
    let truth = claim(2, &server);
    let tell = |meet: Meet| liar.send(&Message::Meet(meet), &[]);

    // Refused at once.
    tell(Meet { netns_cookie: truth.netns_cookie + 1, ..truth });
    assert_eq!(liar.refused(), (2, Reason::NotLocal));
    let mut away = truth;
    away.addresses.remote.ip[..4].copy_from_slice(&[192, 0, 2, 1]);
    tell(away);
    assert_eq!(liar.refused(), (2, Reason::NotLocal));
    let mut itself = truth;
    itself.addresses.remote = itself.addresses.local;
    tell(itself);
    assert_eq!(liar.refused(), (2, Reason::SelfConnect));

    // Refused when the mirror comes, or at once when it is there: and the honest end still gets its companion.
    one.meet(1, &client);
    tell(Meet { cookie: truth.cookie + 1_000_000, ..truth });
    assert_eq!(liar.refused(), (2, Reason::CookieMismatch));
    let false_cookie = claim(2, &stranger).cookie;
    tell(Meet { fd: stranger.as_raw_fd(), cookie: false_cookie, ..truth });
    assert_eq!(liar.refused(), (2, Reason::AddressMismatch));
    tell(Meet { fd: 1_000_000, ..truth });
    assert_eq!(liar.refused(), (2, Reason::Closed));
    tell(Meet { fd: liar.channel.as_raw_fd(), ..truth });
    assert_eq!(liar.refused(), (2, Reason::CookieMismatch));
    tell(truth);
    assert_eq!(one.companion().companion.id, liar.companion().companion.id);
}

#[test]
fn a_self_connect_is_refused() {
    let policyd = Policyd::start(&[]);
    let one = Switch::connect(&policyd.socket);
    let port = listener().local_addr().unwrap().port();
    let lone = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    let address = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, port);
    nix::sys::socket::bind(lone.as_raw_fd(), &address).unwrap();
    nix::sys::socket::connect(lone.as_raw_fd(), &address).unwrap();
    let lone = TcpStream::from(lone);
    one.meet(1, &lone);
    assert_eq!(one.refused(), (1, Reason::SelfConnect));
}

#[test]
fn a_transparent_socket_is_refused() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    if setsockopt(&server, sockopt::IpTransparent, &true).is_err() {
        println!("skipped: IP_TRANSPARENT needs CAP_NET_ADMIN");
        return;
    }
    other.meet(2, &server);
    one.meet(1, &client);
    assert_eq!(other.refused(), (2, Reason::Transparent));
    one.assert_quiet();
}

#[test]
fn sockets_of_different_devices_are_refused() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    setsockopt(&server, sockopt::BindToDevice, &"lo".into()).unwrap();
    one.meet(1, &client);
    other.meet(2, &server);
    assert_eq!(one.refused(), (1, Reason::DifferentDevice));
    assert_eq!(other.refused(), (2, Reason::DifferentDevice));
}

#[test]
fn a_connection_that_is_ending_is_refused() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    client.shutdown(std::net::Shutdown::Write).unwrap();
    other.meet(2, &server);
    one.meet(1, &client);
    assert_eq!(other.refused(), (2, Reason::NotEstablished));
}

#[test]
fn who_cannot_take_its_companion_frees_the_other() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    let (mine, theirs) = (one.companion(), other.companion());
    one.send(&Message::Unable { slot: mine.slot, companion: mine.companion }, &[]);
    assert_eq!(other.refused(), (2, Reason::PeerUnable));
    other.send(&Message::Released(theirs.companion), &[]);
    other.assert_quiet();
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    assert_eq!(one.companion().companion.conn, mine.companion.conn);
}

#[test]
fn nobody_came_then_the_late_end_need_not_wait() {
    let policyd = Policyd::start(&["--park", "1"]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    let asked = Instant::now();
    one.meet(1, &client);
    assert_eq!(one.refused(), (1, Reason::PeerAbsent));
    assert!(asked.elapsed() >= Duration::from_millis(990));
    let asked = Instant::now();
    other.meet(2, &server);
    assert_eq!(other.refused(), (2, Reason::PeerAbsent));
    assert!(asked.elapsed() < Duration::from_millis(500));
    policyd.until("nothing is parked", |status| status.parked == 0);
}

#[test]
fn a_new_generation_takes_the_place_of_the_old() {
    let policyd = Policyd::start(&[]);
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    let (next_client, _next_server) = connection(&listener());
    one.meet(1, &client);
    one.send(&Message::Meet(Meet { slot: SlotRef { slot: 1, generation: 2 }, ..claim(1, &next_client) }), &[]);
    one.assert_quiet();
    other.meet(2, &server);
    other.assert_quiet();
    assert_eq!(policyd.status().parked, 2);
}

#[test]
fn a_users_quota_evicts_that_users_oldest_and_no_others() {
    let policyd = Policyd::start_as(&[], None, "[quotas]\nparked = 3\n");
    let one = Switch::connect(&policyd.socket);
    let ends: Vec<_> = (0..5).map(|_| connection(&listener())).collect();
    let socket = policyd.socket.clone();
    let server = ends[4].1.try_clone().unwrap();
    if is_root() {
        std::os::unix::fs::chown(socket.parent().unwrap(), Some(65_534), None).unwrap();
        let other_user = std::thread::spawn(move || {
            // SAFETY: of this thread alone (the raw call, not libc's for the whole process).
            let result = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65_534, 65_534, 65_534) };
            assert_eq!(result, 0);
            let other = Switch::connect(&socket);
            other.meet(9, &server);
            other.assert_quiet();
            other.channel
        });
        let _still_open = other_user.join().unwrap();
        policyd.until("the other user's is parked", |status| status.parked == 1);
        for (slot, (client, _)) in (0..).zip(&ends[..4]) {
            one.meet(slot, client);
        }
        assert_eq!(one.refused(), (0, Reason::Quota));
        assert_eq!(policyd.status().parked, 4);
    } else {
        for (slot, (client, _)) in (0..).zip(&ends[..4]) {
            one.meet(slot, client);
        }
        assert_eq!(one.refused(), (0, Reason::Quota));
    }
}

#[test]
fn quotas_of_companions_pairs_and_clients_hold() {
    let policyd = Policyd::start_as(&[], None, "[quotas]\ncompanions = 2\nclients = 2\n");
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    one.meet(1, &client);
    other.meet(1, &server);
    let first = (one.companion(), other.companion());
    let (client, server) = connection(&listener());
    one.meet(2, &client);
    other.meet(2, &server);
    assert_eq!((one.refused(), other.refused()), ((2, Reason::Quota), (2, Reason::Quota)));
    one.send(&Message::Released(first.0.companion), &[]);
    other.send(&Message::Released(first.1.companion), &[]);
    one.assert_quiet();
    other.assert_quiet();
    one.meet(2, &client);
    other.meet(2, &server);
    assert_eq!(one.companion().companion.id, other.companion().companion.id);

    let third = channel(&policyd.socket);
    let family = Family::new();
    let wake = nix::sys::eventfd::EventFd::new().unwrap();
    let fds = [family.registry_file.as_raw_fd(), family.board_file.as_raw_fd(), wake.as_raw_fd()];
    let mut packet = [0; tandem_protocol::MAX_MESSAGE];
    let length = Message::Hello { family: family.id, mail: 0 }.encode(&mut packet);
    send_raw(&third, &packet[..length], &fds).unwrap();
    assert_eq!(receive(&third).unwrap().0, Message::RefuseHello { reason: Reason::Quota });
    assert!(receive(&third).is_none(), "then it is closed");
}

#[test]
fn where_policyd_may_not_look_the_switch_shows_its_socket() {
    if !is_root() {
        println!("skipped: another user's policyd needs root");
        return;
    }
    let policyd = Policyd::start_as(&[], Some(65_534), "");
    let (one, other) = (Switch::connect(&policyd.socket), Switch::connect(&policyd.socket));
    let (client, server) = connection(&listener());
    let asked = |switch: &Switch| match switch.receive() {
        Some((Message::Prove(slot), fds)) if fds.is_empty() => slot,
        other => panic!("not asked: {other:?}"),
    };
    one.meet(1, &client);
    one.assert_quiet();
    other.meet(2, &server);
    let (mine, theirs) = (asked(&one), asked(&other));
    for (switch, slot, socket) in [(&one, mine, &client), (&other, theirs, &server)] {
        assert_eq!(switch.registry().show(slot), Some((socket.as_raw_fd(), std::process::id())));
        assert!(switch.registry().is_examined(slot));
        switch.send(&Message::Proof(slot), &[socket.as_raw_fd()]);
        eventually("what was shown is closed", || !switch.registry().is_examined(slot));
    }
    assert_eq!(one.companion().companion.id, other.companion().companion.id);

    // Another socket than was claimed; and a socket that is gone; and no answer at all.
    let (client, server) = connection(&listener());
    let (stranger, _far) = connection(&listener());
    one.meet(1, &client);
    other.meet(2, &server);
    let (mine, theirs) = (asked(&one), asked(&other));
    one.send(&Message::Proof(mine), &[stranger.as_raw_fd()]);
    assert_eq!(one.refused(), (1, Reason::CookieMismatch));
    other.send(&Message::NoProof(theirs), &[]);
    assert_eq!(other.refused(), (2, Reason::Closed));
    one.meet(1, &client);
    other.meet(2, &server);
    let _ = (asked(&one), asked(&other));
    assert_eq!((one.refused(), other.refused()), ((1, Reason::NoProof), (2, Reason::NoProof)));
}
