//! What a provider is called: in `tandem ss`, as the name of its library's file, and between the two ends of a companion, which must
//! have the same one.

/// 1 to 15 lower-case letters, digits, `_` and `-`, a letter first; the rest is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ProviderName([u8; ProviderName::BYTES]);

impl ProviderName {
    pub const BYTES: usize = 16;
    /// What a device in sysfs is served by.
    pub const VERBS: Self = Self(*b"verbs\0\0\0\0\0\0\0\0\0\0\0");

    /// `None`: no provider is called so, or something else is.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::BYTES];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Self::from_bytes(bytes)
    }

    /// From another process.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let name = Self(bytes);
        let length = bytes.iter().position(|&byte| byte == 0)?;
        let (text, rest) = bytes.split_at(length);
        let sound = |&byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        let begins = text.first().is_some_and(u8::is_ascii_lowercase);
        let taken = matches!(text, b"tcp" | b"local");
        (begins && text.iter().all(sound) && rest.iter().all(|&byte| byte == 0) && !taken).then_some(name)
    }

    pub fn bytes(&self) -> [u8; Self::BYTES] {
        self.0
    }

    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|&byte| byte == 0).unwrap_or(Self::BYTES);
        std::str::from_utf8(self.0.get(..length).unwrap_or(&[])).unwrap_or("?")
    }
}

impl std::fmt::Display for ProviderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_that_nothing_else_has() {
        for fine in ["verbs", "a", "my-san_2", "abcdefghijklmno"] {
            let name = ProviderName::new(fine).unwrap();
            assert_eq!((name.as_str(), ProviderName::from_bytes(name.bytes())), (fine, Some(name)));
        }
        assert_eq!(ProviderName::new("verbs"), Some(ProviderName::VERBS));
        for wrong in ["", "tcp", "local", "Verbs", "a b", "../x", "2x", "-x", "abcdefghijklmnop", "é", "a\0b"] {
            assert_eq!(ProviderName::new(wrong), None, "{wrong:?}");
        }
        assert_eq!(ProviderName::from_bytes([b'a'; 16]), None);
    }
}
