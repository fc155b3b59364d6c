//! Where things stand in the memory of companions between hosts, and what the two switches tell each other about it.
//!
//! ```text
//! images      one a connection: the words of both directions, as the two ends of a pair on one host share them
//! landing     one a connection: a page of records, then the ring that we read. The peer puts there
//! staging     one a connection: the ring that we write, the source of all puts
//! news        one bit a connection
//! ```
//!
//! All of it is mapped once, shared with forked children, and virtual until it is used. Landing and staging are registered by the
//! chunk, of connections with one peer host by one device.

use tandem_protocol::ProviderName;
use tandem_protocol::message::Blob;
use tandem_protocol::pair::NEWS_WORDS;
use tandem_provider::stream::{open, seal};
use tandem_provider::{SHARE_BYTES, Share};

use crate::stream::{Place, Words};

pub const CONNS: usize = 4_096;
/// Connections that are registered together.
pub const CHUNK: usize = 8;
pub const CHUNKS: usize = CONNS / CHUNK;
/// A direction's ring. The reader's memory and the writer's have the same size, and neither grows.
pub const RING: usize = 128 << 10;

pub const RECORDS: usize = 4_096;
const IMAGE: usize = 2 * size_of::<Words>();
const LANDING: usize = RECORDS + RING;
const LANDING_AT: usize = CONNS * IMAGE;
const STAGING_AT: usize = LANDING_AT + CONNS * LANDING;
const NEWS_AT: usize = STAGING_AT + CONNS * RING;
pub const BYTES: usize = NEWS_AT + (NEWS_WORDS * 8).next_multiple_of(4_096);

pub const LANDING_CHUNK: usize = CHUNK * LANDING;
pub const STAGING_CHUNK: usize = CHUNK * RING;

const _: () = assert!(CONNS <= NEWS_WORDS * 64 && LANDING_AT.is_multiple_of(4_096) && STAGING_AT.is_multiple_of(4_096));
const _: () = assert!(RING as u64 <= tandem_provider::stream::MOST_RING);

/// The direction that we write has the first words, that which we read the second.
pub const fn words(conn: u32, inward: bool) -> usize {
    conn as usize * IMAGE + inward as usize * size_of::<Words>()
}

pub const fn records(conn: u32) -> usize {
    LANDING_AT + conn as usize * LANDING
}

pub const fn read_ring(conn: u32) -> Place {
    Place::new((records(conn) + RECORDS) as u64, RING as u64)
}

pub const fn write_ring(conn: u32) -> Place {
    Place::new((STAGING_AT + conn as usize * RING) as u64, RING as u64)
}

/// The same, from where the chunk's registered memory begins.
pub const fn staged(conn: u32) -> u64 {
    (conn as usize % CHUNK * RING) as u64
}

/// Where the connection's records are, from where the chunk's registered memory begins.
pub const fn landing(conn: u32) -> u64 {
    (conn as usize % CHUNK * LANDING) as u64
}

pub const fn landing_chunk(chunk: usize) -> usize {
    LANDING_AT + chunk * LANDING_CHUNK
}

pub const fn staging_chunk(chunk: usize) -> usize {
    STAGING_AT + chunk * STAGING_CHUNK
}

pub const fn news() -> usize {
    NEWS_AT
}

/// A record's place among a connection's: 64 bytes apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Record {
    /// Writer: {`AtKind`, N, number of the geometry, its start, the start of the one before}. A geometry's place is always the whole
    /// ring. Two, for the record may be put anew before anybody has seen it, and the reader may be at the one before.
    At = 0,
    /// Writer: {W + 1, [`end`] bits}.
    End = 1,
    /// Reader: {`Want`, `Consumed`, 1 if it reads no more}: who has asked for something has not consumed more than that, nor less.
    Want = 2,
    /// Both: {the companion's id}.
    Ready = 3,
}

/// Bits of [`Record::End`].
pub mod end {
    /// shutdown(SHUT_WR): the writer reads on.
    pub const HALF: u64 = 1;
    /// The stream ended in the ring: W counts once all before it has arrived.
    pub const RING: u64 = 2;
}

impl Record {
    pub const fn offset(self) -> usize {
        self as usize * 64
    }
}

/// As it is put: the words, and the check.
pub fn sealed<const N: usize>(words: [u64; N]) -> [u64; 8] {
    let (words, check) = seal(words);
    let mut all = [0; 8];
    for (place, word) in all.iter_mut().zip(words.into_iter().chain([check])) {
        *place = word;
    }
    all
}

/// What has landed there, if it is whole, in a private copy.
///
/// # Safety
/// `at` is a connection's records, mapped; the peer may write there at any time.
pub unsafe fn landed<const N: usize>(at: *const u8, record: Record) -> Option<[u64; N]> {
    let place = at.wrapping_add(record.offset()).cast::<u64>();
    // SAFETY: within the record's 64 bytes, aligned. Volatile: what is read is a copy whose halves may not fit together.
    let words = std::array::from_fn(|index| unsafe { place.add(index).read_volatile() });
    // SAFETY: as above.
    open(words, unsafe { place.add(N).read_volatile() })
}

/// What one end's switch tells the other's, around its provider's own words.
pub struct Endpoint<'a> {
    pub name: ProviderName,
    /// Where this connection's records are, from the start of the memory that is shared; its ring follows.
    pub landing: u64,
    pub share: Share,
    pub provider: &'a [u8],
}

const MAGIC: u32 = u32::from_le_bytes(*b"tsw4");
const NAME_AT: usize = 16 + SHARE_BYTES;
const HEAD: usize = NAME_AT + ProviderName::BYTES;

/// All that a provider may say goes through.
const _: () = assert!(HEAD + tandem_provider::BLOB_BYTES <= Blob::BYTES);

impl<'a> Endpoint<'a> {
    pub fn encode(&self) -> Option<Blob> {
        let mut bytes = [0u8; Blob::BYTES];
        let length = HEAD + self.provider.len();
        bytes.get_mut(..4)?.copy_from_slice(&MAGIC.to_le_bytes());
        bytes.get_mut(4..8)?.copy_from_slice(&(RING as u32).to_le_bytes());
        bytes.get_mut(8..16)?.copy_from_slice(&self.landing.to_le_bytes());
        bytes.get_mut(16..NAME_AT)?.copy_from_slice(&self.share.bytes);
        bytes.get_mut(NAME_AT..HEAD)?.copy_from_slice(&self.name.bytes());
        bytes.get_mut(HEAD..length)?.copy_from_slice(self.provider);
        Blob::new(bytes.get(..length)?)
    }

    /// `None`: of another version, with rings of another size, or of a provider that cannot be.
    pub fn decode(bytes: &'a [u8]) -> Option<Endpoint<'a>> {
        let (head, provider) = bytes.split_at_checked(HEAD)?;
        let number = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        if number(0)? != MAGIC || number(4)? != RING as u32 {
            return None;
        }
        let landing = u64::from_le_bytes(head.get(8..16)?.try_into().ok()?);
        let name = ProviderName::from_bytes(head.get(NAME_AT..HEAD)?.try_into().ok()?)?;
        Some(Endpoint { name, landing, share: Share { bytes: head.get(16..NAME_AT)?.try_into().ok()? }, provider })
    }

    /// All of it lies in a memory of so many bytes.
    pub fn fits(&self, bytes: u64) -> bool {
        self.landing.checked_add(LANDING as u64).is_some_and(|end| end <= bytes) && self.landing.is_multiple_of(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps() {
        assert!(words(CONNS as u32 - 1, true) + size_of::<Words>() <= records(0));
        let last = CONNS as u32 - 1;
        assert_eq!(records(1), read_ring(0).offset() as usize + RING);
        assert_eq!(read_ring(last).offset() as usize + RING, write_ring(0).offset() as usize);
        assert_eq!(write_ring(last).offset() as usize + RING, news());
        assert!(news() + NEWS_WORDS * 8 <= BYTES);
        assert_eq!((landing_chunk(1), staging_chunk(1)), (records(8), write_ring(8).offset() as usize));
        assert_eq!(landing_chunk(CHUNKS), staging_chunk(0));
    }

    #[test]
    fn an_endpoint_survives_its_blob_and_nonsense_does_not() {
        let name = ProviderName::new("mine").unwrap();
        let own = Endpoint { name, landing: 0x2_1000, share: Share { bytes: [7; 40] }, provider: &[1, 2, 3] };
        let blob = own.encode().unwrap();
        let read = Endpoint::decode(blob.content()).unwrap();
        assert_eq!((read.name, read.landing), (name, 0x2_1000));
        assert_eq!((read.share, read.provider), (own.share, own.provider));
        assert!(read.fits(0x2_1000 + LANDING as u64) && !read.fits(0x2_0fff + LANDING as u64));
        for cut in [0, 3, HEAD - 1] {
            assert!(Endpoint::decode(&blob.content()[..cut]).is_none());
        }
        for flipped in 0..8 {
            let mut bytes = blob.content().to_vec();
            bytes[flipped] ^= 1;
            assert!(Endpoint::decode(&bytes).is_none(), "byte {flipped}");
        }
        let mut bytes = blob.content().to_vec();
        bytes[NAME_AT] = b'/';
        assert!(Endpoint::decode(&bytes).is_none(), "no name");
        let far = Endpoint { landing: u64::MAX - 63, ..own };
        assert!(!far.fits(u64::MAX));
        assert!(Endpoint { provider: &[0; Blob::BYTES], ..own }.encode().is_none());
    }

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        let mut memory = [[0u64; 8]; 4];
        memory[2] = sealed([3, 4]);
        // SAFETY: records of this frame.
        let read = |memory: &[[u64; 8]; 4]| unsafe { landed(memory.as_ptr().cast(), Record::Want) };
        assert_eq!(read(&memory), Some([3, 4]));
        memory[2][1] = 5;
        assert_eq!(read(&memory), None::<[u64; 2]>);
    }
}
