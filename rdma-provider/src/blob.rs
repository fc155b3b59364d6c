//! What the two ends' providers tell each other, by way of the switches and policyds: the endpoint of a companion, and shared
//! memory. Both are hostile input: each field is checked once, here, and what comes out can be used as it is.

use tandem_provider::{Address, Blob, PEER_FETCHES, PEER_PUTS, Share};

use crate::addresses::canonical;
use crate::errors::{Errno, Result};

const MAGIC: u32 = u32::from_le_bytes(*b"tvrb");
const SHARE_MAGIC: u32 = u32::from_le_bytes(*b"tvsh");
/// Another version cannot be understood. A longer blob of the same one can: fields are only ever added at the end.
const VERSION: u16 = 1;

const ENDPOINT_BYTES: usize = 104;

/// What a peer's control slot takes up.
pub const SLOT_BYTES: u64 = 64;
/// The most notifications that one end may have under way.
pub const MOST_WINDOW: u16 = 1024;
const MOST_NUMBER: u32 = 0x00ff_ffff;

/// One end of a queue pair's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub pair: u32,
    /// The first packet's sequence number.
    pub sequence: u32,
    pub gid: [u8; 16],
    pub lid: u16,
    pub ethernet: bool,
    /// As the wire has it: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    /// Notifications that the other end may have under way to this one.
    pub window: u16,
    pub fetches_in: u8,
    pub fetches_out: u8,
    /// Where this end's control slot is, and its key.
    pub control: u64,
    pub control_key: u32,
    /// The TCP connection's.
    pub local: Address,
    pub remote: Address,
}

impl Endpoint {
    pub fn encode(&self) -> Blob {
        let mut blob = Blob::EMPTY;
        let mut writer = Writer { bytes: &mut blob.bytes, at: 0 };
        writer.u32(MAGIC).u16(VERSION).u16(ENDPOINT_BYTES as u16);
        writer.u32(self.pair).u32(self.sequence).put(&self.gid).u16(self.lid);
        writer.put(&[u8::from(self.ethernet), self.mtu]).u16(self.window).put(&[self.fetches_in, self.fetches_out]);
        writer.u32(self.control_key).u32(0).u64(self.control);
        writer.address(&self.local).address(&self.remote);
        blob.used = ENDPOINT_BYTES as u32;
        blob
    }

    pub fn decode(blob: &Blob) -> Result<Endpoint> {
        let mut reader = Reader(blob.content().ok_or(Errno(libc::EINVAL))?);
        if reader.u32()? != MAGIC || reader.u16()? != VERSION {
            return Err(Errno(libc::EPROTO));
        }
        let stated = usize::from(reader.u16()?);
        check(stated >= ENDPOINT_BYTES && stated <= blob.used as usize)?;
        let endpoint = Endpoint {
            pair: reader.u32()?,
            sequence: reader.u32()?,
            gid: reader.array()?,
            lid: reader.u16()?,
            ethernet: reader.flag()?,
            mtu: reader.u8()?,
            window: reader.u16()?,
            fetches_in: reader.u8()?,
            fetches_out: reader.u8()?,
            control_key: reader.u32()?,
            control: {
                reader.u32()?;
                reader.u64()?
            },
            local: reader.address()?,
            remote: reader.address()?,
        };
        endpoint.check()?;
        Ok(endpoint)
    }

    fn check(&self) -> Result<()> {
        check((1..=MOST_NUMBER).contains(&self.pair) && self.sequence <= MOST_NUMBER)?;
        check(!self.ethernet || self.gid != [0; 16])?;
        check((1..=5).contains(&self.mtu))?;
        check((1..=MOST_WINDOW).contains(&self.window))?;
        check(self.fetches_in > 0 && self.fetches_out > 0)?;
        check(self.control > 0 && self.control.is_multiple_of(8) && self.control.checked_add(SLOT_BYTES).is_some())
    }

    /// Both ends speak of one TCP connection.
    pub fn mirrors(&self, local: &Address, remote: &Address) -> bool {
        let same = |a: &Address, b: &Address| canonical(a) == canonical(b) && a.port == b.port;
        same(&self.local, remote) && same(&self.remote, local)
    }
}

/// Memory of the other end's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared {
    pub base: u64,
    pub bytes: u64,
    pub key: u32,
    pub rights: u32,
}

impl Shared {
    pub fn encode(&self) -> Share {
        let mut share = Share { bytes: [0; tandem_provider::SHARE_BYTES] };
        let mut writer = Writer { bytes: &mut share.bytes, at: 0 };
        writer
            .u32(SHARE_MAGIC)
            .u16(VERSION)
            .u16(self.rights as u16)
            .u32(self.key)
            .u32(0)
            .u64(self.base)
            .u64(self.bytes);
        share
    }

    pub fn decode(share: &Share) -> Result<Shared> {
        let mut reader = Reader(&share.bytes);
        if reader.u32()? != SHARE_MAGIC || reader.u16()? != VERSION {
            return Err(Errno(libc::EPROTO));
        }
        let rights = u32::from(reader.u16()?);
        let key = reader.u32()?;
        reader.u32()?;
        let shared = Shared { base: reader.u64()?, bytes: reader.u64()?, key, rights };
        check(shared.rights & !(PEER_PUTS | PEER_FETCHES) == 0)?;
        check(shared.bytes > 0 && shared.base > 0 && shared.base.checked_add(shared.bytes).is_some())?;
        Ok(shared)
    }

    /// Where a put of so many bytes at this offset goes.
    pub fn place(&self, offset: u64, bytes: u32) -> Result<u64> {
        check(offset.checked_add(u64::from(bytes)).is_some_and(|end| end <= self.bytes))?;
        Ok(self.base + offset)
    }
}

fn check(fine: bool) -> Result<()> {
    if fine { Ok(()) } else { Err(Errno(libc::EINVAL)) }
}

struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let room = self.bytes.iter_mut().skip(self.at);
        room.zip(bytes).for_each(|(to, from)| *to = *from);
        self.at += bytes.len();
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Families by our own numbers; ports and bytes are in network order already.
    fn address(&mut self, address: &Address) -> &mut Self {
        let family = if i32::from(address.family) == libc::AF_INET6 { 6 } else { 4 };
        self.u16(family).put(&address.port.to_ne_bytes()).u32(0).put(&address.bytes)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Errno(libc::EINVAL))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn address(&mut self) -> Result<Address> {
        let family = match self.u16()? {
            4 => libc::AF_INET,
            6 => libc::AF_INET6,
            _ => return Err(Errno(libc::EINVAL)),
        } as u16;
        let port = u16::from_ne_bytes(self.array()?);
        self.u32()?;
        Ok(Address { family, port, scope: 0, bytes: self.array()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tandem_provider::BLOB_BYTES;

    fn addresses() -> impl Strategy<Value = Address> {
        (any::<bool>(), any::<u16>(), any::<[u8; 16]>()).prop_map(|(six, port, mut bytes)| {
            if !six {
                bytes[4..].fill(0);
            }
            let family = if six { libc::AF_INET6 } else { libc::AF_INET } as u16;
            Address { family, port, scope: 0, bytes }
        })
    }

    prop_compose! {
        fn endpoints()(
            pair in 1..=MOST_NUMBER, sequence in 0..=MOST_NUMBER, gid in any::<[u8; 16]>().prop_filter("set", |g| *g != [0; 16]),
            lid: u16, ethernet: bool, mtu in 1..=5u8, window in 1..=MOST_WINDOW, fetches_in in 1..=255u8,
            fetches_out in 1..=255u8, control in 1..u64::MAX / 16, control_key: u32, local in addresses(), remote in addresses(),
        ) -> Endpoint {
            let control = control * 8;
            Endpoint {
                pair, sequence, gid, lid, ethernet, mtu, window, fetches_in, fetches_out, control, control_key, local, remote,
            }
        }
    }

    proptest! {
        #[test]
        fn an_endpoint_arrives_as_it_was(endpoint in endpoints(), longer in 0..=BLOB_BYTES - ENDPOINT_BYTES) {
            let mut blob = endpoint.encode();
            blob.used += longer as u32;
            prop_assert_eq!(Endpoint::decode(&blob), Ok(endpoint));
        }

        /// Nothing panics, and whatever is accepted can be used as it is: it would be written so again.
        #[test]
        fn any_bytes_are_refused_or_harmless(bytes in any::<[[u8; 16]; 15]>(), used in 0..300u32) {
            let mut blob = Blob::EMPTY;
            blob.bytes = bytes.as_flattened().try_into().unwrap();
            blob.used = used;
            prop_assert!(Endpoint::decode(&blob).is_err(), "bytes by chance bear no magic");
        }

        #[test]
        fn a_changed_byte_is_refused_or_in_bounds(endpoint in endpoints(), at in 0..ENDPOINT_BYTES, byte: u8, used in 0..=300u32) {
            let mut blob = endpoint.encode();
            blob.bytes[at] = byte;
            blob.used = used;
            if let Ok(taken) = Endpoint::decode(&blob) {
                prop_assert_eq!(taken.check(), Ok(()));
                prop_assert!(used as usize >= ENDPOINT_BYTES && used as usize <= BLOB_BYTES);
            }
        }

        #[test]
        fn shared_memory_arrives_as_it_was(base in 1..u64::MAX / 2, bytes in 1..u64::MAX / 2, key: u32, rights in 0..=3u32) {
            let shared = Shared { base, bytes, key, rights };
            prop_assert_eq!(Shared::decode(&shared.encode()), Ok(shared));
        }

        #[test]
        fn no_put_leaves_the_shared_memory(raw: [[u8; 20]; 2], offset: u64, bytes: u32) {
            let mut share = Shared { base: 1, bytes: 1, key: 0, rights: 0 }.encode();
            share.bytes[8..].copy_from_slice(&raw.as_flattened()[8..]);
            if let Ok(shared) = Shared::decode(&share)
                && let Ok(place) = shared.place(offset, bytes)
            {
                prop_assert!(place >= shared.base);
                prop_assert!(u128::from(place) + u128::from(bytes) <= u128::from(shared.base) + u128::from(shared.bytes));
            }
        }
    }

    #[test]
    fn ends_of_one_connection_mirror_each_other() {
        let four = |last: u8, port: u16| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[10, 0, 0, last]);
            Address { family: libc::AF_INET as u16, port, scope: 0, bytes }
        };
        let mapped = |last: u8, port: u16| {
            let bytes = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
            Address { family: libc::AF_INET6 as u16, port, scope: 3, bytes }
        };
        let (a, b) = (four(1, 5), four(2, 6));
        let theirs = Endpoint { local: mapped(2, 6), remote: mapped(1, 5), ..sample() };
        assert!(theirs.mirrors(&a, &b));
        assert!(!theirs.mirrors(&b, &a));
        assert!(!theirs.mirrors(&a, &four(2, 7)), "another port is another connection");
    }

    fn sample() -> Endpoint {
        let none = Address::default();
        Endpoint {
            pair: 17,
            sequence: 1,
            gid: [1; 16],
            lid: 0,
            ethernet: true,
            mtu: 5,
            window: 8,
            fetches_in: 1,
            fetches_out: 1,
            control: 4096,
            control_key: 7,
            local: none,
            remote: none,
        }
    }
}
