//! Which policyd a process talks to.
//!
//! `TANDEM_POLICYD` names it outright. Else the candidates are, in this order, the system's, then the user's own in
//! `XDG_RUNTIME_DIR`, or where there is none in `/tmp/tandem-UID`. A user's own counts only in a folder that is that
//! user's and nobody else's (mode 0700, no symbolic link): anybody can make a folder in `/tmp`.

/// The system's policyd.
pub const SYSTEM: &[u8] = b"/run/tandem/policyd.sock";
/// Beside the switches' socket, for the `tandem` command: JSON lines.
pub const CONTROL_SUFFIX: &str = ".control";

const CAPACITY: usize = 108;

/// A path that fits a unix socket address, in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SocketPath {
    bytes: [u8; CAPACITY],
    length: usize,
    /// Whether the folder must prove to be the user's own.
    private: bool,
}

/// What the search depends on; the caller reads it from its environment.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// `TANDEM_POLICYD`
    pub explicit: Option<&'a [u8]>,
    /// `XDG_RUNTIME_DIR`
    pub runtime_dir: Option<&'a [u8]>,
    /// The effective user.
    pub uid: u32,
}

impl Search<'_> {
    /// Sockets to try in turn, the first that answers.
    pub fn candidates(&self) -> impl Iterator<Item = SocketPath> + use<> {
        let named = self.explicit.filter(|path| !path.is_empty()).map(|path| SocketPath::new(&[path], false));
        let list = match named {
            Some(path) => [path, None],
            None => [SocketPath::new(&[SYSTEM], false), self.own()],
        };
        list.into_iter().flatten()
    }

    /// The user's own policyd.
    pub fn own(&self) -> Option<SocketPath> {
        let runtime_dir = self.runtime_dir.filter(|dir| dir.first() == Some(&b'/'));
        if let Some(dir) = runtime_dir {
            return SocketPath::new(&[dir, b"/tandem/policyd.sock"], true);
        }
        let mut digits = [0; 10];
        SocketPath::new(&[b"/tmp/tandem-", decimal(self.uid, &mut digits), b"/policyd.sock"], true)
    }
}

impl SocketPath {
    /// A path somebody named. `None`: empty, too long for a socket address, or with a zero byte.
    pub fn named(path: &[u8]) -> Option<Self> {
        Self::new(&[path], false)
    }

    fn new(parts: &[&[u8]], private: bool) -> Option<Self> {
        let mut path = Self { bytes: [0; CAPACITY], length: 0, private };
        for part in parts {
            let end = path.length.checked_add(part.len())?;
            // One byte stays zero: a C string.
            if end >= CAPACITY || part.contains(&0) {
                return None;
            }
            path.bytes.get_mut(path.length..end)?.copy_from_slice(part);
            path.length = end;
        }
        (path.length > 0).then_some(path)
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    pub fn as_c_str(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// The folder it stands in.
    pub fn folder(&self) -> &[u8] {
        let slash = self.as_bytes().iter().rposition(|&b| b == b'/').unwrap_or(0);
        self.as_bytes().get(..slash.max(1)).unwrap_or(&[])
    }

    /// For `connect` and `bind`, with its length.
    pub fn address(&self) -> (libc::sockaddr_un, libc::socklen_t) {
        let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; CAPACITY] };
        for (to, &from) in address.sun_path.iter_mut().zip(&self.bytes) {
            *to = from as libc::c_char;
        }
        let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + self.length + 1;
        (address, length as libc::socklen_t)
    }

    /// Whether whoever listens there may be believed to be this user's policyd: named or the system's, or in a folder
    /// that only `uid` can write.
    pub fn is_trusted(&self, uid: u32) -> bool {
        if !self.private {
            return true;
        }
        let mut folder = [0; CAPACITY];
        for (to, &from) in folder.iter_mut().zip(self.folder()) {
            *to = from;
        }
        // SAFETY: `folder` is zero-terminated (a folder is shorter than its path), `status` is plain data to be filled in.
        let status = unsafe {
            let mut status = std::mem::zeroed::<libc::stat>();
            if libc::lstat(folder.as_ptr().cast(), &raw mut status) != 0 {
                return false;
            }
            status
        };
        status.st_mode & libc::S_IFMT == libc::S_IFDIR && status.st_mode & 0o077 == 0 && status.st_uid == uid
    }
}

impl std::fmt::Debug for SocketPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

fn decimal(mut value: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut from = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        from = at;
        if value == 0 {
            break;
        }
    }
    digits.get(from..).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(search: Search) -> Vec<String> {
        search.candidates().map(|p| String::from_utf8(p.as_bytes().to_vec()).unwrap()).collect()
    }

    #[test]
    fn named_alone_else_the_systems_then_ones_own() {
        let search = Search { explicit: Some(b"/x/y"), runtime_dir: Some(b"/run/user/7"), uid: 7 };
        assert_eq!(found(search), ["/x/y"]);
        let search = Search { explicit: None, ..search };
        assert_eq!(found(search), ["/run/tandem/policyd.sock", "/run/user/7/tandem/policyd.sock"]);
        let search = Search { explicit: Some(b""), runtime_dir: Some(b"relative"), uid: 0 };
        assert_eq!(found(search), ["/run/tandem/policyd.sock", "/tmp/tandem-0/policyd.sock"]);
        let search = Search { explicit: None, runtime_dir: None, uid: u32::MAX };
        assert_eq!(found(search)[1], "/tmp/tandem-4294967295/policyd.sock");
    }

    #[test]
    fn too_long_is_no_path() {
        assert!(SocketPath::named(&[b'a'; 108]).is_none());
        assert!(SocketPath::named(&[b'a'; 107]).is_some());
        assert!(SocketPath::named(b"").is_none());
        assert!(SocketPath::named(b"a\0b").is_none());
    }

    #[test]
    fn only_a_private_folder_is_trusted() {
        use std::os::unix::fs::PermissionsExt;
        // SAFETY: no arguments.
        let uid = unsafe { libc::geteuid() };
        let top = std::env::temp_dir().join(format!("tandem-trust-{}", std::process::id()));
        std::fs::create_dir_all(top.join("tandem")).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(top.join("tandem"), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let dir = top.to_str().unwrap().as_bytes();
        let own = Search { explicit: None, runtime_dir: Some(dir), uid }.own().unwrap();
        mode(0o700);
        assert!(own.is_trusted(uid));
        assert!(!own.is_trusted(uid + 1));
        mode(0o755);
        assert!(!own.is_trusted(uid));
        std::fs::remove_dir_all(&top).unwrap();
        assert!(!own.is_trusted(uid));
    }
}
