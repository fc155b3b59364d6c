//! The fail-back record: the only thing of ours that is ever sent on TCP, at offset N of a taken epoch.

/// `{magic, epoch, R, E}`, 32 bytes, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub epoch: u64,
    /// R: the bytes that follow start at this stream offset.
    pub from: u64,
    /// E: everything accepted so far; from here on the stream is plain.
    pub to: u64,
}

impl Record {
    pub const SIZE: usize = 32;
    pub const MAGIC: u64 = u64::from_le_bytes(*b"\xf5tandem\x01");

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let fields = [Self::MAGIC, self.epoch, self.from, self.to];
        for (field, value) in bytes.chunks_exact_mut(8).zip(fields) {
            field.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Record> {
        let mut fields = bytes.chunks_exact(8).map(|field| field.try_into().map_or(0, u64::from_le_bytes));
        let magic = fields.next()?;
        let record = Record { epoch: fields.next()?, from: fields.next()?, to: fields.next()? };
        (magic == Self::MAGIC).then_some(record)
    }
}

/// Collects a record that arrives in pieces. Plain data, zero is empty.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Collector {
    bytes: [u8; Record::SIZE],
    have: u64,
}

impl Collector {
    /// How many bytes are still to come, at least 1 until the record has been taken out.
    pub fn missing(&self) -> usize {
        Record::SIZE.saturating_sub(self.have as usize)
    }

    /// Where the next byte goes: `missing()` bytes of room.
    pub fn next(&mut self) -> *mut u8 {
        let have = (self.have as usize).min(Record::SIZE);
        self.bytes.as_mut_ptr().wrapping_add(have)
    }

    /// `n` bytes were put at `next()`. Complete: the record, or None inside for nonsense; empty again then.
    pub fn added(&mut self, n: usize) -> Option<Option<Record>> {
        self.have += n.min(self.missing()) as u64;
        if self.missing() > 0 {
            return None;
        }
        self.have = 0;
        Some(Record::decode(&self.bytes))
    }
}
