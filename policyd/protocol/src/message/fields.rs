//! A packet's fields, one after the other.

use super::*;

pub(super) struct Writer<'a> {
    pub(super) packet: &'a mut [u8; MAX_MESSAGE],
    pub(super) at: usize,
}

impl Writer<'_> {
    /// The longest message is far below MAX_MESSAGE (a test says so), so nothing is ever cut off.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.packet.get_mut(self.at..self.at + bytes.len()) {
            room.copy_from_slice(bytes);
            self.at += bytes.len();
        }
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn slot(&mut self, slot: SlotRef) {
        self.u32(slot.slot);
        self.u32(slot.generation);
    }

    pub(super) fn companion(&mut self, companion: CompanionRef) {
        self.u32(companion.pair);
        self.u32(companion.conn);
        self.bytes(&[companion.role]);
        self.u64(companion.id);
    }

    pub(super) fn far(&mut self, far: FarRef) {
        self.u32(far.host);
        self.u64(far.id);
    }

    pub(super) fn addresses(&mut self, addresses: Addresses) {
        self.bytes(&[addresses.family as u8]);
        for end in [addresses.local, addresses.remote] {
            self.bytes(&end.ip);
            self.u16(end.port);
        }
    }
}

pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl Reader<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Length)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.bytes::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub(super) fn descriptor(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.u32()?).map_err(|_| Malformed::Value)
    }

    pub(super) fn reason(&mut self) -> Result<Reason, Malformed> {
        Reason::from_code(self.u16()?).ok_or(Malformed::Value)
    }

    pub(super) fn name<const N: usize>(&mut self) -> Result<assignment::Name<N>, Malformed> {
        assignment::Name::from_bytes(self.bytes()?).ok_or(Malformed::Value)
    }

    pub(super) fn cell(&mut self) -> Result<u32, Malformed> {
        self.u32().and_then(|cell| if (cell as usize) < assignment::CELLS { Ok(cell) } else { Err(Malformed::Value) })
    }

    pub(super) fn slot(&mut self) -> Result<SlotRef, Malformed> {
        Ok(SlotRef { slot: self.u32()?, generation: self.u32()? })
    }

    pub(super) fn companion(&mut self) -> Result<CompanionRef, Malformed> {
        let companion = CompanionRef { pair: self.u32()?, conn: self.u32()?, role: self.u8()?, id: self.u64()? };
        let sound = companion.role <= 1 && companion.conn < crate::pair::CONNS && companion.id != 0;
        if sound { Ok(companion) } else { Err(Malformed::Value) }
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value),
        }
    }

    pub(super) fn role(&mut self) -> Result<u8, Malformed> {
        self.u8().and_then(|role| if role <= 1 { Ok(role) } else { Err(Malformed::Value) })
    }

    pub(super) fn far(&mut self) -> Result<FarRef, Malformed> {
        let far = FarRef { host: self.u32()?, id: self.u64()? };
        if far.id != 0 { Ok(far) } else { Err(Malformed::Value) }
    }

    pub(super) fn blob(&mut self) -> Result<Blob, Malformed> {
        let used = usize::from(self.u16()?);
        let (content, rest) = self.rest.split_at_checked(used).ok_or(Malformed::Length)?;
        self.rest = rest;
        Blob::new(content).ok_or(Malformed::Value)
    }

    pub(super) fn word(&mut self) -> Result<crate::message::Word, Malformed> {
        let kind = WordKind::from_code(self.u8()?).ok_or(Malformed::Value)?;
        Ok(crate::message::Word { kind, writer: self.role()?, epoch: self.u64()? })
    }

    pub(super) fn drain(&mut self) -> Result<crate::message::Drain, Malformed> {
        let (code, number, cookie) = (self.u8()?, self.u32()?, self.u64()?);
        crate::message::Drain::of_parts(code, number, cookie).ok_or(Malformed::Value)
    }

    pub(super) fn addresses(&mut self) -> Result<Addresses, Malformed> {
        let family = IpFamily::from_code(self.u8()?).ok_or(Malformed::Value)?;
        let local = Endpoint { ip: self.bytes()?, port: self.u16()? };
        let remote = Endpoint { ip: self.bytes()?, port: self.u16()? };
        let tail = |end: &Endpoint| end.ip.iter().skip(4).any(|&b| b != 0);
        if family == IpFamily::V4 && (tail(&local) || tail(&remote)) {
            return Err(Malformed::Value);
        }
        Ok(Addresses { family, local, remote })
    }
}
