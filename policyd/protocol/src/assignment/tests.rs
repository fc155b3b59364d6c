use proptest::prelude::*;

use super::*;

/// An arena is too large for a stack.
fn arena() -> Box<Arena> {
    // SAFETY: all its fields are atomics, for which zero bytes are valid.
    let arena = unsafe { Box::<Arena>::new_zeroed().assume_init() };
    arena.initialise();
    arena
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn write(arena: &Arena, state: State) {
    arena.table(3).unwrap().write(&Content {
        state,
        by_source: true,
        interface_index: 7,
        interface: Name::new(b"eth1").unwrap(),
        v4_sources: &[v4("10.1.0.1"), v4("10.1.0.2")],
        v6_sources: &[v6("fd01::1")],
        v4: &[
            Range { first: v4("10.0.0.0"), last: v4("10.0.255.255"), source: 1 },
            Range { first: v4("10.2.0.0"), last: v4("255.255.255.255"), source: 0 },
        ],
        v6: &[Range { first: v6("fd02::"), last: v6("fd02::ffff"), source: 0 }],
        ..Content::default()
    });
}

fn source(arena: &Arena, destination: &str) -> Result<String, Why> {
    match arena.look_up(5, destination.parse().unwrap()) {
        Decision::Bind(binding) => {
            assert_eq!((binding.interface.as_str(), binding.interface_index), ("eth1", 7));
            Ok(binding.source.to_string())
        }
        Decision::LeaveAlone(why) => Err(why),
        Decision::NetDown => panic!("down"),
    }
}

#[test]
fn destinations_are_found_in_their_range() {
    let arena = arena();
    assert_eq!(source(&arena, "10.0.0.1"), Err(Why::NoAssignment));
    write(&arena, State::Active);
    arena.assign(5, Some(3));
    assert_eq!(source(&arena, "10.0.0.1").as_deref(), Ok("10.1.0.2"));
    let has = |source: &str| arena.has_source(5, source.parse().unwrap());
    assert!(has("10.1.0.1") && has("::ffff:10.1.0.2") && has("fd01::1") && !has("10.1.0.3") && !has("fd01::2"));

    assert_eq!(source(&arena, "::ffff:10.0.255.255").as_deref(), Ok("10.1.0.2"));
    assert_eq!(source(&arena, "10.1.0.0"), Err(Why::NotRouted));
    assert_eq!(source(&arena, "10.2.0.0").as_deref(), Ok("10.1.0.1"));
    assert_eq!(source(&arena, "9.255.255.255"), Err(Why::NotRouted));
    assert_eq!(source(&arena, "fd02::1").as_deref(), Ok("fd01::1"));
    assert_eq!(source(&arena, "fd02::1:0"), Err(Why::NotRouted));
    for local in
        ["127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.0.1", "0.0.0.0", "::", "::1", "fe80::1", "ff02::1"]
    {
        assert_eq!(source(&arena, local), Err(Why::Local), "{local}");
    }
    assert_eq!(arena.look_up(6, "10.0.0.1".parse().unwrap()), Decision::LeaveAlone(Why::NoAssignment));
    arena.assign(5, None);
    assert!(!arena.has_assignment(5));
    assert_eq!(source(&arena, "10.0.0.1"), Err(Why::NoAssignment));
}

#[test]
fn an_interface_that_is_gone() {
    let arena = arena();
    arena.assign(5, Some(3));
    write(&arena, State::GoneUnbound);
    assert_eq!(source(&arena, "10.0.0.1"), Err(Why::Gone));
    assert_eq!(source(&arena, "10.1.0.1"), Err(Why::NotRouted));
    write(&arena, State::GoneDown);
    assert_eq!(arena.look_up(5, "10.0.0.1".parse().unwrap()), Decision::NetDown);
    assert_eq!(source(&arena, "10.1.0.1"), Err(Why::NotRouted));
}

#[test]
fn too_many_ranges_are_cut_off() {
    let arena = arena();
    let ranges: Vec<_> = (0..2_000u32)
        .map(|at| Range {
            first: Ipv4Addr::from_bits(at << 16 | 1 << 30),
            last: Ipv4Addr::from_bits(at << 16 | 1 << 30),
            source: 0,
        })
        .collect();
    arena.table(3).unwrap().write(&Content {
        interface_index: 7,
        interface: Name::new(b"eth1").unwrap(),
        v4_sources: &[v4("10.1.0.1")],
        v4: &ranges,
        ..Content::default()
    });
    arena.assign(5, Some(3));
    assert!(arena.table(3).unwrap().is_partial());
    assert!(source(&arena, &ranges[MAX_RANGES - 1].first.to_string()).is_ok());
    assert_eq!(source(&arena, &ranges[MAX_RANGES].first.to_string()), Err(Why::NotRouted));
}

#[test]
fn a_reader_sees_one_moment() {
    let arena = arena();
    arena.assign(5, Some(3));
    let sources = [v4("10.1.0.1"), v4("10.1.0.2")];
    let one = |which: usize| {
        arena.table(3).unwrap().write(&Content {
            interface_index: which as u32 + 1,
            interface: Name::new(b"eth1").unwrap(),
            v4_sources: &sources,
            v4: &[Range { first: v4("10.0.0.0"), last: v4("10.0.0.9"), source: which }],
            ..Content::default()
        });
    };
    one(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..20_000).for_each(|round| one(round & 1)));
        let mut seen = 0;
        while !writer.is_finished() {
            match arena.look_up(5, "10.0.0.5".parse().unwrap()) {
                Decision::Bind(binding) => {
                    assert_eq!(binding.source, IpAddr::V4(sources[binding.interface_index as usize - 1]));
                    seen += 1;
                }
                other => assert_eq!(other, Decision::LeaveAlone(Why::Unreadable)),
            }
        }
        assert!(seen > 0);
    });
}

#[test]
fn names_have_bounds() {
    assert!(InterfaceName::new(b"123456789012345").is_some());
    for wrong in [&b""[..], b"1234567890123456", b"a b", b"a/b", b"a\0b", b"\xff"] {
        assert!(InterfaceName::new(wrong).is_none(), "{wrong:?}");
    }
    assert!(InterfaceName::from_bytes(*b"eth0\0\0\0\0\0\0\0\0\0\0\0x").is_none());
    assert!(InterfaceName::from_bytes([b'x'; 16]).is_none());
}

proptest! {
    /// Whatever stands in an arena, looking up ends, without a panic, in an answer.
    #[test]
    fn any_bytes_are_looked_up(
        bytes in proptest::collection::vec(any::<u8>(), 512),
        cell in any::<u32>(), word in any::<u64>(), address in any::<u128>(), is_v4 in any::<bool>(), near in any::<bool>(),
    ) {
        let mut arena = arena();
        let start = std::mem::offset_of!(Arena, tables);
        let tables: *mut u8 = (&raw mut *arena).cast();
        for (at, &byte) in bytes.iter().enumerate() {
            // SAFETY: inside the first table; any byte is valid in an atomic.
            unsafe { tables.add(start + at).write(byte) };
        }
        let cell = if near { cell % CELLS as u32 } else { cell };
        if let Some(slot) = arena.cells.get(cell as usize) {
            slot.store(if near { 1 } else { word }, Ordering::Relaxed);
        }
        let destination = if is_v4 {
            IpAddr::V4(Ipv4Addr::from_bits(address as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(address))
        };
        if let Decision::Bind(binding) = arena.look_up(cell, destination) {
            prop_assert!(!binding.interface.is_none() && binding.interface_index != 0);
        }
    }
}
