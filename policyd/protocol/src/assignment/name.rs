//! Short names in place: of an interface, of a network.

/// Printable ASCII without a blank or a slash, ended by zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name<const N: usize>([u8; N]);

/// IFNAMSIZ, the ending zero included.
pub type InterfaceName = Name<16>;
pub type NetworkName = Name<32>;

impl<const N: usize> Name<N> {
    pub const NONE: Self = Self([0; N]);

    /// `None`: empty, too long, or with a byte that no name has.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut name = [0; N];
        if text.is_empty() || text.len() >= N {
            return None;
        }
        name.get_mut(..text.len())?.copy_from_slice(text);
        Self::from_bytes(name)
    }

    /// As it stands in a message or a table.
    pub fn from_bytes(bytes: [u8; N]) -> Option<Self> {
        let name = Self(bytes);
        let length = name.as_bytes().len();
        let sound = name.as_bytes().iter().all(|&b| b.is_ascii_graphic() && b != b'/')
            && length < N
            && bytes.get(length..).is_some_and(|rest| rest.iter().all(|&b| b == 0));
        sound.then_some(name)
    }

    pub fn is_none(&self) -> bool {
        self.as_bytes().is_empty()
    }

    pub fn as_bytes(&self) -> &[u8] {
        let length = self.0.iter().position(|&b| b == 0).unwrap_or(N);
        self.0.get(..length).unwrap_or(&[])
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or("")
    }

    /// With its zeros, for SO_BINDTODEVICE and the like.
    pub const fn bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> Default for Name<N> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<const N: usize> std::fmt::Debug for Name<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl<const N: usize> std::fmt::Display for Name<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
