//! Keys and random-looking values derived from the seed of the process, and comparison in constant time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Source of keys and identifiers.
#[derive(Clone)]
pub(crate) struct Secrets {
    seed: [u8; 32],
    counter: Arc<AtomicU64>,
}

impl Secrets {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            counter: Arc::default(),
        }
    }

    /// The key for one purpose; the same in all processes with this seed.
    pub(crate) fn key(&self, purpose: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.seed, purpose.as_bytes()).as_bytes()
    }

    /// A value that nobody can guess and that never comes again: a keyed hash of a counter and of `salt`, which separates processes with
    /// equal seeds (pass the time).
    pub(crate) fn fresh(&self, purpose: &str, salt: i64) -> [u8; 32] {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new_keyed(&self.key(purpose));
        hasher.update(&count.to_le_bytes()).update(&salt.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Whether two secrets are equal, in a time that does not depend on where they differ: BLAKE3's hashes compare in constant time.
    pub(crate) fn equal(&self, left: &str, right: &str) -> bool {
        blake3::keyed_hash(&self.seed, left.as_bytes()) == blake3::keyed_hash(&self.seed, right.as_bytes())
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_values_differ_and_keys_do_not() {
        let secrets = Secrets::new([7; 32]);
        assert_ne!(secrets.fresh("a", 0), secrets.fresh("a", 0));
        assert_eq!(secrets.key("a"), Secrets::new([7; 32]).key("a"));
        assert_ne!(secrets.key("a"), secrets.key("b"));
        assert!(secrets.equal("x", "x") && !secrets.equal("x", "y") && !secrets.equal("", "x"));
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(hex(&[0, 15, 160, 255]), "000fa0ff");
    }
}
