//! The memory between two processes: one sealed memfd, mapped once by each. Policyd makes it and hands out its conns;
//! what stands in it is the switches' business.
//!
//! ```text
//! 0            8,192 conns x 1,024 bytes of control words
//! 8 MiB        role 0: 8,192 small rings of 64 KiB      (one a conn, for the direction that role 0 writes)
//! 520 MiB      role 1: 8,192 small rings
//! 1,032 MiB    role 0: 2,048 big rings of 4 MiB         (given to conns on demand, by that role)
//! 9,224 MiB    role 1: 2,048 big rings
//! 17,416 MiB   role 0: news, one bit a conn (set by the other role: look at it; cleared by this one)
//!  + 1 KiB     role 1: news
//!  + 4 KiB     8,192 conns x 2 roles: first rings of 1 KiB (in which a direction begins, and stays while it needs no more)
//!  + 16 MiB    end
//! ```
//!
//! Virtual until touched. A role is fixed for the life of the pair; in a pair of a process with itself it has both.

pub const CONNS: u32 = 8_192;
pub const CONTROL_BYTES: usize = 1_024;
pub const FIRST_RING_BYTES: usize = 1_024;
pub const SMALL_RING_BYTES: usize = 64 << 10;
pub const BIG_RINGS: u32 = 2_048;
pub const BIG_RING_BYTES: usize = 4 << 20;
pub const ROLES: u32 = 2;

const SMALL_AT: usize = CONNS as usize * CONTROL_BYTES;
const SMALL_ROLE: usize = CONNS as usize * SMALL_RING_BYTES;
const BIG_AT: usize = (SMALL_AT + ROLES as usize * SMALL_ROLE).next_multiple_of(2 << 20);
const BIG_ROLE: usize = BIG_RINGS as usize * BIG_RING_BYTES;

const NEWS_AT: usize = BIG_AT + ROLES as usize * BIG_ROLE;
/// 64-bit words of news a role has.
pub const NEWS_WORDS: usize = CONNS as usize / 64;

const FIRST_AT: usize = (NEWS_AT + ROLES as usize * NEWS_WORDS * 8).next_multiple_of(4_096);
/// A conn's two stand side by side: an idle connection takes half a page for both.
const FIRST_CONN: usize = ROLES as usize * FIRST_RING_BYTES;

/// Of the memfd and of its mapping.
pub const BYTES: usize = FIRST_AT + CONNS as usize * FIRST_CONN;

/// Seals on the memfd: its size is fixed, so that a mapping of it never faults past an end.
pub const SEALS: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;

const _: () = assert!(SMALL_AT == 8 << 20);
const _: () = assert!(BIG_AT == 1_032 << 20);
const _: () = assert!(BYTES == (17_432 << 20) + 4_096);

/// Where a conn's control words begin. `None`: no such conn (an index may come from a peer).
#[inline]
pub const fn control_offset(conn: u32) -> Option<usize> {
    if conn < CONNS { Some(conn as usize * CONTROL_BYTES) } else { None }
}

/// Where the ring stands in which what `role` writes for `conn` begins.
#[inline]
pub const fn first_ring_offset(role: u8, conn: u32) -> Option<usize> {
    if (role as u32) < ROLES && conn < CONNS {
        Some(FIRST_AT + conn as usize * FIRST_CONN + role as usize * FIRST_RING_BYTES)
    } else {
        None
    }
}

/// Where the small ring begins that `role` writes for `conn`.
#[inline]
pub const fn small_ring_offset(role: u8, conn: u32) -> Option<usize> {
    if (role as u32) < ROLES && conn < CONNS {
        Some(SMALL_AT + role as usize * SMALL_ROLE + conn as usize * SMALL_RING_BYTES)
    } else {
        None
    }
}

/// Where the big ring `index` of those that `role` writes begins.
#[inline]
pub const fn big_ring_offset(role: u8, index: u32) -> Option<usize> {
    if (role as u32) < ROLES && index < BIG_RINGS {
        Some(BIG_AT + role as usize * BIG_ROLE + index as usize * BIG_RING_BYTES)
    } else {
        None
    }
}

/// Where the news for `role` begins: [`NEWS_WORDS`] words.
#[inline]
pub const fn news_offset(role: u8) -> Option<usize> {
    if (role as u32) < ROLES { Some(NEWS_AT + role as usize * NEWS_WORDS * 8) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_touch_and_never_overlap() {
        assert_eq!(control_offset(CONNS - 1).unwrap() + CONTROL_BYTES, small_ring_offset(0, 0).unwrap());
        assert_eq!(small_ring_offset(0, CONNS - 1).unwrap() + SMALL_RING_BYTES, small_ring_offset(1, 0).unwrap());
        assert_eq!(small_ring_offset(1, CONNS - 1).unwrap() + SMALL_RING_BYTES, big_ring_offset(0, 0).unwrap());
        assert_eq!(big_ring_offset(0, BIG_RINGS - 1).unwrap() + BIG_RING_BYTES, big_ring_offset(1, 0).unwrap());
        assert_eq!(big_ring_offset(1, BIG_RINGS - 1).unwrap() + BIG_RING_BYTES, news_offset(0).unwrap());
        assert_eq!(news_offset(0).unwrap() + NEWS_WORDS * 8, news_offset(1).unwrap());
        assert!(news_offset(1).unwrap() + NEWS_WORDS * 8 <= first_ring_offset(0, 0).unwrap());
        assert_eq!(first_ring_offset(0, 0).unwrap() + FIRST_RING_BYTES, first_ring_offset(1, 0).unwrap());
        assert_eq!(first_ring_offset(1, 0).unwrap() + FIRST_RING_BYTES, first_ring_offset(0, 1).unwrap());
        assert_eq!(first_ring_offset(1, CONNS - 1).unwrap() + FIRST_RING_BYTES, BYTES);
        assert_eq!(big_ring_offset(0, 0).unwrap() % (2 << 20), 0);
    }

    #[test]
    fn out_of_range_is_none() {
        assert_eq!(control_offset(CONNS), None);
        assert_eq!(small_ring_offset(2, 0), None);
        assert_eq!(small_ring_offset(0, CONNS), None);
        assert_eq!((first_ring_offset(2, 0), first_ring_offset(0, CONNS)), (None, None));
        assert_eq!(big_ring_offset(0, BIG_RINGS), None);
        assert_eq!(big_ring_offset(2, 0), None);
        assert_eq!(news_offset(2), None);
    }
}
