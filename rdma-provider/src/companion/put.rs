//! Puts: the switch's list, checked against the memory it names, becomes one list of work requests behind one doorbell.

use arrayvec::ArrayVec;
use tandem_provider::{FETCH, IMMEDIATE, IMMEDIATE_BYTES, NOTE_BITS, NOTIFY, PUT, PUT_BYTES, PUTS, Put, REPORT};

use super::requests::Immediate;
use super::{Companion, Inner};
use crate::errors::{Errno, Result};
use crate::send::Purpose;
use crate::verbs::pair::{MOST, Request};

/// What a late notification may add: the note itself, and the immediate after all.
const EXTRA: usize = 2;
const _: () = assert!(PUTS as usize + EXTRA <= MOST);

/// A put that was checked.
#[derive(Clone, Copy)]
struct Checked {
    fetch: bool,
    notify: bool,
    report: Option<u64>,
    note: u32,
    local: u64,
    local_key: Option<u32>,
    bytes: u32,
    remote: u64,
    remote_key: u32,
}

const NOTHING: Request = Request {
    id: 0,
    fetch: false,
    signalled: false,
    local: 0,
    local_key: None,
    bytes: 0,
    remote: 0,
    remote_key: 0,
    note: None,
};

impl Companion {
    /// All of them in this order, or none.
    ///
    /// # Safety
    /// Immediate bytes can be read where the puts say.
    pub unsafe fn put(&self, puts: &[Put]) -> Result<()> {
        if puts.is_empty() || puts.len() > PUTS as usize {
            return Err(Errno(libc::EINVAL));
        }
        self.while_up(|inner| {
            let mut checked = ArrayVec::<Checked, { PUTS as usize }>::new();
            for put in puts {
                checked.push(self.check(inner, put)?);
            }
            self.post_puts(inner, &checked)
        })
    }

    pub fn notify(&self, note: u32) -> Result<()> {
        check(note >> NOTE_BITS == 0)?;
        let nothing = Checked {
            fetch: false,
            notify: true,
            report: None,
            note,
            local: 0,
            local_key: None,
            bytes: 0,
            remote: 0,
            remote_key: 0,
        };
        self.while_up(|inner| self.post_puts(inner, &[nothing]))
    }

    fn check(&self, inner: &Inner, put: &Put) -> Result<Checked> {
        let fetch = match put.kind {
            PUT => false,
            FETCH => true,
            _ => return Err(Errno(libc::EINVAL)),
        };
        let set = |flag: u32| put.flags & flag != 0;
        check(put.flags & !(REPORT | NOTIFY | IMMEDIATE) == 0 && put.bytes <= PUT_BYTES)?;
        check(!fetch || !set(NOTIFY | IMMEDIATE) && put.bytes > 0)?;
        check(!set(NOTIFY) || put.note >> NOTE_BITS == 0)?;
        let (local, local_key) = match set(IMMEDIATE) {
            true => {
                check(put.bytes <= IMMEDIATE_BYTES && (put.bytes == 0 || !put.immediate.is_null()))?;
                (put.immediate.addr() as u64, None)
            }
            false => {
                let (place, key) = self.domain.local(put.local, put.local_offset, put.bytes)?;
                // Small ones go with the request: the device need not come back for them.
                (place, (fetch || put.bytes > inner.inline()).then_some(key))
            }
        };
        let (remote, remote_key) = self.domain.remote(put.remote, put.remote_offset, put.bytes)?;
        Ok(Checked {
            fetch,
            notify: set(NOTIFY),
            report: set(REPORT).then_some(put.token),
            note: put.note,
            local,
            local_key,
            bytes: put.bytes,
            remote,
            remote_key,
        })
    }

    fn post_puts(&self, inner: &mut Inner, puts: &[Checked]) -> Result<()> {
        // The last one's note is the newest: one notification tells them all.
        let notifies = puts.iter().enumerate().rfind(|(_, put)| put.notify).map(|(at, put)| (at, put.note));
        let most = (puts.len() + if notifies.is_some() { EXTRA } else { 0 }) as u32;
        self.reserve(inner, most).inspect_err(|_| self.refuse_put(inner))?;
        let before = inner.sends.under_way();
        let posted = self.post_reserved(inner, puts, notifies);
        // What was not needed goes back. A pair that died keeps what it posted until it is closed.
        let used = inner.sends.under_way() - before;
        inner.give_sends(most - used);
        posted
    }

    fn post_reserved(&self, inner: &mut Inner, puts: &[Checked], notifies: Option<(usize, u32)>) -> Result<()> {
        let immediate = match notifies {
            Some((at, note)) => match self.immediate(inner, note) {
                Ok(immediate) => Some((at, immediate)),
                Err(lie) => return Err(self.refuse(inner, lie)),
            },
            None => None,
        };
        // Never more than MOST, as is said above.
        let mut list = ArrayVec::<Request, MOST>::new();
        for (at, put) in puts.iter().enumerate() {
            let (id, signalled) = self.number(inner, put.report.map(Purpose::Report));
            let note = match &immediate {
                Some((which, Immediate::Now(immediate))) if *which == at => Some(*immediate),
                _ => None,
            };
            list.push(Request {
                id,
                fetch: put.fetch,
                signalled,
                local: put.local,
                local_key: put.local_key,
                bytes: put.bytes,
                remote: put.remote,
                remote_key: put.remote_key,
                note,
            });
        }
        if let Some((_, Immediate::Late { word, after_all })) = &immediate {
            list.push(self.late_request(inner, word));
            if let Some(immediate) = after_all {
                let (id, signalled) = self.number(inner, None);
                list.push(Request { id, signalled, note: Some(*immediate), ..NOTHING });
            }
        }
        self.post(inner, &list)
    }
}

fn check(fine: bool) -> Result<()> {
    if fine { Ok(()) } else { Err(Errno(libc::EINVAL)) }
}
