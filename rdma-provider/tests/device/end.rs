//! One process's end: queue, domain and memory, driven by the boundary as the switch would.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::net::IpAddr;
use std::ptr;
use std::time::{Duration, Instant};

use tandem_provider::stream::{open, seal};
use tandem_provider::{
    Address, Blob, Companion, Completion, Domain, IMMEDIATE, NOTIFY, PEER_FETCHES, PEER_PUTS, PUT, Provider, Put,
    Queue, REPORT, Share, kind,
};

use crate::plugin;

/// Patience with a guest on a busy host.
pub const LONG: Duration = Duration::from_secs(60);

/// Bytes of the words that a peer puts, in front of its ring.
pub const WORDS: u64 = 4096;

/// Memory as the switch has it: shared, so that a forked child sees it too.
pub struct Memory {
    pub base: *mut u8,
    pub bytes: u64,
    pub number: u32,
}

pub struct End {
    pub provider: &'static Provider,
    pub queue: *mut Queue,
    pub domain: *mut Domain,
    pub landing: Memory,
    pub staging: Memory,
    /// Told and not yet asked for.
    pub told: VecDeque<Completion>,
}

pub const QUEUE: u64 = 1;
pub const DOMAIN: u64 = 2;
pub const LANDING: u64 = 3;
pub const STAGING: u64 = 4;
/// Companions' cookies start here.
pub const FIRST: u64 = 100;

pub fn address(ip: IpAddr, port: u16) -> Address {
    let (family, bytes) = match ip {
        IpAddr::V4(four) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&four.octets());
            (libc::AF_INET, bytes)
        }
        IpAddr::V6(six) => (libc::AF_INET6, six.octets()),
    };
    Address { family: family as u16, port: port.to_be(), scope: 0, bytes }
}

fn fine(code: i32) -> i32 {
    assert!(code >= 0, "errno {}: {}", -code, std::io::Error::from_raw_os_error(-code));
    code
}

impl End {
    /// Everything but companions; `ring` bytes each way.
    pub fn open(ip: IpAddr, ring: u64) -> End {
        let provider = plugin::open();
        let (mut queue, mut domain) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the plug-in's functions, with places of this frame; so in all of this file.
        unsafe {
            fine((provider.open_queue)(provider.context, QUEUE, &mut queue));
            fine((provider.open_domain)(queue, &address(ip, 0), DOMAIN, &mut domain));
        }
        let none = || Memory { base: ptr::null_mut(), bytes: 0, number: 0 };
        let (landing, staging) = (none(), none());
        let mut end = End { provider, queue, domain, landing, staging, told: VecDeque::new() };
        end.expect(kind::READY, DOMAIN);
        end.landing = end.register(WORDS + ring, PEER_PUTS | PEER_FETCHES, LANDING);
        end.staging = end.register(ring, 0, STAGING);
        end
    }

    pub fn register(&mut self, bytes: u64, rights: u32, cookie: u64) -> Memory {
        let base = shared_memory(bytes as usize);
        let mut number = 0;
        // SAFETY: as above.
        unsafe {
            fine((self.provider.register_memory)(self.domain, base.cast(), bytes, rights, cookie, &mut number));
        }
        self.expect(kind::READY, cookie);
        Memory { base, bytes, number }
    }

    pub fn share(&self, memory: u32) -> Share {
        let mut share = Share { bytes: [0; 40] };
        // SAFETY: as above.
        fine(unsafe { (self.provider.share)(self.domain, memory, &mut share) });
        share
    }

    pub fn adopt(&self, share: &Share) -> (u32, u64) {
        let (mut remote, mut bytes) = (0, 0);
        // SAFETY: as above.
        fine(unsafe { (self.provider.adopt_share)(self.domain, share, &mut remote, &mut bytes) });
        (remote, bytes)
    }

    /// Created, bound, prepared: and its endpoint.
    pub fn prepare(&mut self, cookie: u64, local: &Address, remote: &Address) -> (*mut Companion, Blob) {
        let mut companion = ptr::null_mut();
        // SAFETY: as above.
        unsafe {
            fine((self.provider.create)(self.domain, cookie, &mut companion));
            fine((self.provider.bind)(companion, local, remote));
            fine((self.provider.prepare)(companion));
        }
        self.expect(kind::READY, cookie);
        let mut blob = Blob::EMPTY;
        // SAFETY: as above.
        fine(unsafe { (self.provider.endpoint)(companion, &mut blob) });
        (companion, blob)
    }

    pub fn connect(&mut self, companion: *mut Companion, cookie: u64, peer: &Blob) {
        // SAFETY: as above.
        fine(unsafe { (self.provider.connect)(companion, peer) });
        self.expect(kind::CONNECTED, cookie);
    }

    pub fn close(&mut self, companion: *mut Companion, cookie: u64) {
        // SAFETY: as above; the handle is not used again.
        fine(unsafe { (self.provider.close)(companion) });
        self.told.retain(|told| told.cookie != cookie);
        loop {
            let told = self.wait(LONG, |told| told.cookie == cookie).expect("CLOSED");
            assert_ne!(told.kind, kind::CONNECTED);
            if told.kind == kind::CLOSED {
                return;
            }
        }
    }

    /// All of it; the provider has let go of everything then.
    pub fn shut(mut self) {
        // SAFETY: as above; the handles are not used again.
        unsafe {
            fine((self.provider.close_domain)(self.domain));
            self.expect(kind::CLOSED, DOMAIN);
            fine((self.provider.close_queue)(self.queue));
        }
    }

    pub fn put(&self, companion: *mut Companion, puts: &[Put]) -> i32 {
        // SAFETY: as above.
        unsafe { (self.provider.put)(companion, puts.as_ptr(), puts.len() as u32) }
    }

    pub fn describe(&self, companion: *mut Companion) -> String {
        let mut text = [0u8; 256];
        // SAFETY: as above.
        let bytes = fine(unsafe { (self.provider.describe)(companion, text.as_mut_ptr().cast(), 256) });
        String::from_utf8_lossy(&text[..bytes as usize]).into_owned()
    }

    /// Everything that has happened, into `told`. No system call when nothing has.
    pub fn poll(&mut self) -> usize {
        let mut room = [Completion::default(); 32];
        let mut all = 0;
        loop {
            // SAFETY: as above.
            let count =
                fine(unsafe { (self.provider.poll)(self.queue, room.as_mut_ptr(), room.len() as u32) }) as usize;
            self.told.extend(&room[..count]);
            all += count;
            if count < room.len() {
                return all;
            }
        }
    }

    /// Arms, polls again, and sleeps if there is still nothing. False when the time is over.
    pub fn sleep(&mut self, limit: Duration) -> bool {
        // SAFETY: as above.
        fine(unsafe { (self.provider.arm)(self.queue) });
        if self.poll() > 0 {
            return true;
        }
        // SAFETY: as above.
        let fd = fine(unsafe { (self.provider.wake)(self.queue) });
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry of this frame.
        let n = unsafe { libc::poll(&mut entry, 1, limit.as_millis() as i32) };
        self.poll();
        n != 0
    }

    /// The first that fits, of those told already or from now on; others stay.
    pub fn wait(&mut self, limit: Duration, fits: impl Fn(&Completion) -> bool) -> Option<Completion> {
        let until = Instant::now() + limit;
        loop {
            self.poll();
            if let Some(at) = self.told.iter().position(&fits) {
                return self.told.remove(at);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.sleep(left);
        }
    }

    pub fn expect(&mut self, kind: u32, cookie: u64) -> Completion {
        let told = self.wait(LONG, |told| told.kind == kind && told.cookie == cookie);
        let told = told.unwrap_or_else(|| panic!("no completion {kind} for {cookie}: {:?}", self.told));
        fine(told.status);
        told
    }

    pub fn death(&mut self, cookie: u64) -> i32 {
        let told = self.wait(LONG, |told| told.kind == kind::DEAD && told.cookie == cookie);
        -told.unwrap_or_else(|| panic!("{cookie} does not die: {:?}", self.told)).status
    }
}

pub fn shared_memory(bytes: usize) -> *mut u8 {
    // SAFETY: a new mapping.
    unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let base = libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED);
        base.cast()
    }
}

/// One stream each way over one companion, as `tandem_provider::stream` says: `consumed` is a sealed record at the start of the landing
/// memory, `produced` is the note.
pub struct Stream {
    pub companion: *mut Companion,
    pub cookie: u64,
    remote: u32,
    ring: u64,
    pub written: u64,
    pub consumed: u64,
    pub produced: u64,
    credited: u64,
    put_credit: u64,
    /// Where its words and rings are in the landing memory, and its ring in the staging memory.
    words_at: u64,
    ring_at: u64,
    staging_at: u64,
}

impl Stream {
    pub fn new(companion: *mut Companion, cookie: u64, remote: u32, ring: u64) -> Stream {
        Stream::at(companion, cookie, remote, ring, 0, WORDS, 0)
    }

    pub fn at(
        companion: *mut Companion,
        cookie: u64,
        remote: u32,
        ring: u64,
        words_at: u64,
        ring_at: u64,
        staging_at: u64,
    ) -> Stream {
        Stream {
            companion,
            cookie,
            remote,
            ring,
            written: 0,
            consumed: 0,
            produced: 0,
            credited: 0,
            put_credit: 0,
            words_at,
            ring_at,
            staging_at,
        }
    }

    /// What is told of it.
    pub fn attend(&mut self, end: &mut End) {
        while let Some(at) = end.told.iter().position(|told| told.kind == kind::NOTIFIED && told.cookie == self.cookie)
        {
            let note = end.told.remove(at).unwrap().note;
            if let Some(produced) = tandem_provider::stream::extend(note, self.consumed, self.ring) {
                self.produced = self.produced.max(produced);
            }
        }
    }

    pub fn room(&mut self, end: &End) -> u64 {
        // SAFETY: within the landing memory; the peer puts there at any time.
        let (word, check) = unsafe {
            let at = end.landing.base.add(self.words_at as usize).cast::<u64>();
            (at.read_volatile(), at.add(1).read_volatile())
        };
        if let Some([credited]) = open([word], check) {
            assert!(credited <= self.written, "credit for what was never written");
            self.credited = self.credited.max(credited);
        }
        self.ring - (self.written - self.credited)
    }

    /// As much of it as there is room for; 0 also when too much is under way.
    pub fn write(&mut self, end: &mut End, bytes: &[u8]) -> usize {
        let count = (bytes.len() as u64).min(self.room(end));
        if count == 0 {
            return 0;
        }
        let at = self.written % self.ring;
        let first = count.min(self.ring - at);
        // SAFETY: within the staging memory.
        unsafe {
            let staging = end.staging.base.add(self.staging_at as usize);
            ptr::copy_nonoverlapping(bytes.as_ptr(), staging.add(at as usize), first as usize);
            ptr::copy_nonoverlapping(bytes.as_ptr().add(first as usize), staging, (count - first) as usize);
        }
        let note = tandem_provider::stream::note(self.written + count);
        let piece = |offset: u64, bytes: u64, flags: u32| Put {
            kind: PUT,
            flags,
            local: end.staging.number,
            remote: self.remote,
            local_offset: self.staging_at + offset,
            remote_offset: self.ring_at + offset,
            immediate: ptr::null(),
            bytes: bytes as u32,
            note,
            token: 0,
        };
        let code = match count - first {
            0 => end.put(self.companion, &[piece(at, first, NOTIFY)]),
            rest => end.put(self.companion, &[piece(at, first, 0), piece(0, rest, NOTIFY)]),
        };
        match -code {
            0 => {
                self.written += count;
                count as usize
            }
            libc::EAGAIN => 0,
            errno => panic!("put: {}", std::io::Error::from_raw_os_error(errno)),
        }
    }

    /// What is there, up to the buffer's length.
    pub fn read(&mut self, end: &mut End, buffer: &mut [u8]) -> usize {
        self.attend(end);
        let count = (self.produced - self.consumed).min(buffer.len() as u64);
        let at = self.consumed % self.ring;
        let first = count.min(self.ring - at);
        // SAFETY: within the landing memory.
        unsafe {
            let ring = end.landing.base.add(self.ring_at as usize);
            ptr::copy_nonoverlapping(ring.add(at as usize), buffer.as_mut_ptr(), first as usize);
            ptr::copy_nonoverlapping(ring, buffer.as_mut_ptr().add(first as usize), (count - first) as usize);
        }
        self.consumed += count;
        if self.consumed - self.put_credit >= self.ring / 4 {
            self.credit(end);
        }
        count as usize
    }

    /// False: to be tried again.
    pub fn credit(&mut self, end: &End) -> bool {
        let ([word], check) = seal([self.consumed]);
        let record = [word, check];
        let done = end.put(self.companion, &[self.record(&record, NOTIFY, 0)]) == 0;
        if done {
            self.put_credit = self.consumed;
        }
        done
    }

    /// A sealed record at the start of the peer's words.
    pub fn record(&self, record: &[u64; 2], flags: u32, token: u64) -> Put {
        Put {
            kind: PUT,
            flags: flags | IMMEDIATE,
            local: 0,
            remote: self.remote,
            local_offset: 0,
            remote_offset: self.words_at,
            immediate: record.as_ptr().cast::<c_void>(),
            bytes: 16,
            note: tandem_provider::stream::note(self.written),
            token,
        }
    }

    /// A put that is reported once it, and with it all, has landed.
    pub fn settle(&mut self, end: &mut End, token: u64) {
        let ([word], check) = seal([self.consumed]);
        while end.put(self.companion, &[self.record(&[word, check], NOTIFY | REPORT, token)]) == -libc::EAGAIN {
            end.poll();
        }
        self.put_credit = self.consumed;
        let cookie = self.cookie;
        let landed = |told: &Completion| told.kind == kind::LANDED && told.cookie == cookie && told.token == token;
        end.wait(LONG, landed).unwrap_or_else(|| panic!("it does not land: {:?}", end.told));
    }
}
